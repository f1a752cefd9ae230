/**
 * The conformance suites on a real Cloud Hypervisor: on this machine if its KVM boots the image's
 * kernel, otherwise in the lab host. The lab host has no checkout and no test runner, so each suite
 * is bundled to one file.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { LAB_HYPERVISOR, labCommand, labDir, type LabRecord } from "@torpor/lab";
import { run } from "@torpor/service";
import { imagesDir } from "./local.ts";

export interface CaseOutcome {
  name: string;
  outcome: "passed" | "failed" | "skipped";
  /** Set unless the case passed. */
  reason?: string;
}

interface Place {
  env: Record<string, string>;
  /** The command line that runs a suite in that place. */
  suite(name: keyof typeof ENTRIES, args: string[]): string[];
  binary: string;
  imagesDir: string;
  dir: string;
}

const ENTRIES = {
  api: "tests/conformance/run.ts",
  driver: "apps/node-agent/test/conformance/run.ts",
} as const;
/** Boot takes minutes in a guest that is emulated inside an emulated host. */
const GUEST_BOOT_LIMIT_S = "900";
const MAX_REST_LENGTH = 4_096;

export function onThisMachine(root: string, binary: string): Place {
  return {
    env: { CLOUD_HYPERVISOR_BIN: binary },
    suite: (name, args) => [process.execPath, join(root, ENTRIES[name]), ...args],
    binary,
    imagesDir: imagesDir(root),
    dir: join(root, ".torpor/tmp/conformance"),
  };
}

export async function inTheLab(root: string, record: LabRecord): Promise<Place> {
  const carried = join(labDir(root), "payload/conformance");
  const programs = Object.entries(ENTRIES).map(([name, entry]) => `${name}=${join(root, entry)}`);
  const built = await run(
    [process.execPath, join(root, "apps/node-agent/build.ts"), carried, ...programs],
    { cwd: root, isShown: false },
  );
  if (built.code !== 0) throw new Error(`the suites could not be bundled: ${built.output.trim()}`);
  return {
    env: {},
    suite: (name, args) => {
      const line = [
        "/usr/lib/torpor/node",
        `/mnt/payload/conformance/${name}.mjs`,
        ...args.map((arg) => `'${arg}'`),
      ].join(" ");
      return labCommand(record, `set -a; . /etc/torpor/node-agent.env; { ${line}; } 2>&1`);
    },
    binary: LAB_HYPERVISOR,
    imagesDir: "/var/lib/torpor/images",
    dir: "/var/lib/torpor/conformance",
  };
}

/** True if QEMU found, when it prepared the image, that this machine's KVM boots the kernel. */
export async function hasKvm(root: string): Promise<boolean> {
  const text = await readFile(join(imagesDir(root), ".accelerator.json"), "utf8").catch(() => "{}");
  return (JSON.parse(text) as { accelerator?: string }).accelerator === "kvm";
}

/**
 * Runs every case whose name contains `only`, and reports each outcome as it arrives. Throws when a
 * suite could not run.
 */
export async function runConformance(
  place: Place,
  only: string,
  tell: (outcome: CaseOutcome) => void,
  signal: AbortSignal,
): Promise<void> {
  const image = join(place.imagesDir, "code-interpreter");
  const filter = only === "" ? [] : ["--only", only];
  await runSuite(
    place,
    "api",
    [
      "--bin",
      place.binary,
      "--image",
      image,
      "--guest-port",
      "7777",
      "--guest-boot-limit-s",
      GUEST_BOOT_LIMIT_S,
      "--json",
      ...filter,
    ],
    tell,
    signal,
  );
  await runSuite(
    place,
    "driver",
    [
      "--images",
      place.imagesDir,
      "--dir",
      place.dir,
      "--boot-limit-s",
      GUEST_BOOT_LIMIT_S,
      ...filter,
    ],
    tell,
    signal,
  );
}

async function runSuite(
  place: Place,
  name: keyof typeof ENTRIES,
  args: string[],
  tell: (outcome: CaseOutcome) => void,
  signal: AbortSignal,
): Promise<void> {
  const [command = "", ...rest] = place.suite(name, args);
  const child = spawn(command, rest, {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...place.env },
    signal,
  });
  const exited = once(child, "exit") as Promise<[number | null]>;
  // `exited` is awaited only after the output has ended; an abort before that must not be an
  // unhandled rejection.
  exited.catch(() => {});
  let cases = 0;
  let said = "";
  for await (const line of createInterface({ input: child.stdout })) {
    const outcome = outcomeIn(line);
    if (outcome === undefined) said = `${said}${line}\n`.slice(-MAX_REST_LENGTH);
    else {
      cases += 1;
      tell({ ...outcome, name: `${name}: ${outcome.name}` });
    }
  }
  const [code] = await exited;
  if (code !== 0 && cases === 0)
    throw new Error(
      `the suite "${name}" did not run: ${said.trim().split("\n").slice(-5).join(" | ")}`,
    );
}

function outcomeIn(line: string): CaseOutcome | undefined {
  if (!line.startsWith('{"name"')) return undefined;
  const { name, outcome, reason, error } = JSON.parse(line) as CaseOutcome & { error?: string };
  const why = reason ?? error;
  return { name, outcome, ...(why === undefined ? {} : { reason: why }) };
}
