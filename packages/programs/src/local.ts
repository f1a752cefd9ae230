/**
 * The programs of a fleet on this machine, bundled below `.torpor/programs/`. A program that runs
 * from its sources strips the types of about a hundred files at each start: ten times the CPU time
 * and five times the memory of its bundle.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { cp, glob, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundle } from "./bundle.ts";

const SOURCES = {
  gateway: "apps/gateway/src/main.ts",
  scheduler: "apps/scheduler/src/main.ts",
  "node-agent": "apps/node-agent/src/command.ts",
  fence: "apps/node-agent/src/fence/main.ts",
  "bench-host": "packages/bench/src/host/main.ts",
  "fake-cloud-hypervisor": "packages/fake-cloud-hypervisor/src/main.ts",
} as const;
/** Files that are copied unchanged. */
const COPIES = {
  /** Runs the fake's bundle with the command line of the real one. */
  "cloud-hypervisor": "packages/fake-cloud-hypervisor/bin/cloud-hypervisor",
  /** The node-agent expects these files beside its bundle. */
  "torpor-simulated-vmm/main.py": "apps/node-agent/src/drivers/simulated/vmm/main.py",
  "torpor-simulated-vmm/guest.py": "apps/node-agent/src/drivers/simulated/vmm/guest.py",
  "torpor-simulated-vmm/connections.py": "apps/node-agent/src/drivers/simulated/vmm/connections.py",
} as const;
const STAMP = "sources.sha256";

export type LocalProgram = keyof typeof SOURCES;

/** Root of the checkout. */
const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const DIRECTORY = join(ROOT, ".torpor/programs");

/**
 * Path of the fake Cloud Hypervisor, which `prepareLocalPrograms` makes; for CLOUD_HYPERVISOR_BIN.
 */
export const FAKE_CLOUD_HYPERVISOR_BIN = join(DIRECTORY, "cloud-hypervisor");

/** Path of the bundle that `prepareLocalPrograms` makes. */
export function localProgram(name: LocalProgram): string {
  return join(DIRECTORY, `${name}.mjs`);
}

/**
 * Bundles every program if its sources have changed since the last time. A file is replaced as a
 * whole, so that fleets and commands that start at the same time see the old program or the new
 * one.
 */
export async function prepareLocalPrograms(): Promise<void> {
  const names = Object.keys(SOURCES) as LocalProgram[];
  const digest = await digestOfSources();
  const isCurrent = (await readFile(join(DIRECTORY, STAMP), "utf8").catch(() => "")) === digest;
  const files = [...names.map((out) => `${out}.mjs`), ...Object.keys(COPIES)];
  if (isCurrent && files.every((file) => existsSync(join(DIRECTORY, file)))) return;
  await mkdir(DIRECTORY, { recursive: true });
  const made = await mkdtemp(join(DIRECTORY, "new-"));
  try {
    await bundle(
      names.map((out) => ({ out, in: join(ROOT, SOURCES[out]) })),
      made,
    );
    for (const [file, source] of Object.entries(COPIES))
      await cp(join(ROOT, source), join(made, file));
    await writeFile(join(made, STAMP), digest);
    for (const file of [...files, STAMP]) {
      await mkdir(dirname(join(DIRECTORY, file)), { recursive: true });
      await rename(join(made, file), join(DIRECTORY, file));
    }
  } finally {
    await rm(made, { recursive: true, force: true });
  }
}

/** Digest of everything that enters a bundle. */
async function digestOfSources(): Promise<string> {
  const paths = await Array.fromAsync(glob("{apps,packages}/*/src/**/*.{ts,py}", { cwd: ROOT }));
  const hash = createHash("sha256");
  for (const path of [...paths.toSorted(), COPIES["cloud-hypervisor"], "pnpm-lock.yaml"])
    hash
      .update(`${path}\0`)
      .update(await readFile(join(ROOT, path)))
      .update("\0");
  return hash.digest("hex");
}
