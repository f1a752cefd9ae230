/**
 * The agent is killed before every durable step of every command and after the last, then started again; the command is delivered once more, as the broker does. Whatever the moment:
 * the command ends as it would have, memory and files are what they were, exactly the right VMM process runs, and nothing half-made is left.
 */
import { execFile } from "node:child_process";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Observation, VmCommand } from "@torpor/contracts";
import { tempDir } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DRIVER_NAMES, type DriverName, driverNamed } from "./support/drivers.ts";
import type { GuestCall } from "./support/host-process.ts";
import { callGuest, commandsOf, type Kind, killVmms, prepareImages, SANDBOX, vmIn, vmmProcesses } from "./support/test-host.ts";

const run = promisify(execFile);
const HOST = fileURLToPath(new URL("support/host-process.ts", import.meta.url));
const AT_ONCE = 3;
/** The hosts' directories are in one of this name: what is reached through a UNIX socket, whose path has 107 bytes at most, is so in a long path too, as in a user's checkout. */
const DEEP = "a-name".padEnd(107, "-that-is-long");

interface Scenario {
  kind: Kind;
  before: Kind[];
  /** The host has lost, or never had, what the commands before made: only the store has it. */
  elsewhere?: boolean;
  state: Observation["state"];
  hasMemory: boolean;
  hasFile: boolean;
  runs: boolean;
}

/** Commands that bring a sandbox to where the last one starts, and what is true after it. */
const SCENARIOS: Scenario[] = [
  { kind: "create", before: [], state: "running", hasMemory: false, hasFile: false, runs: true },
  { kind: "pause", before: ["create"], state: "paused", hasMemory: true, hasFile: true, runs: false },
  { kind: "resume", before: ["create", "pause"], state: "running", hasMemory: true, hasFile: true, runs: true },
  { kind: "resume", before: ["create", "pause"], elsewhere: true, state: "running", hasMemory: true, hasFile: true, runs: true },
  { kind: "stop", before: ["create"], state: "stopped", hasMemory: false, hasFile: true, runs: false },
  { kind: "stop", before: ["create", "pause"], state: "stopped", hasMemory: false, hasFile: true, runs: false },
  { kind: "start", before: ["create", "stop"], state: "running", hasMemory: false, hasFile: true, runs: true },
  { kind: "delete", before: ["create"], state: "deleted", hasMemory: false, hasFile: false, runs: false },
  { kind: "delete", before: ["create", "pause"], state: "deleted", hasMemory: false, hasFile: false, runs: false },
];

interface HostRun {
  /** Names of the durable steps of the last command. */
  steps: string[];
  observations: Observation[];
}

/** Where a driver's hosts live, and what they start from. */
interface Ground {
  driverName: DriverName;
  root: string;
  imageSha256: string;
}

async function host(ground: Ground, dir: string, crashAt: number, todo: (VmCommand | GuestCall)[]): Promise<HostRun> {
  const args = [HOST, dir, ground.driverName, String(crashAt), ...todo.map((one) => JSON.stringify(one))];
  const { stdout } = await run(process.execPath, args, { timeout: 60_000 }).catch(
    (error: { stdout: string; signal?: string; stderr: string }) => {
      if (crashAt === 0 || error.signal !== "SIGKILL") throw new Error(`the host failed: ${error.stderr}`);
      return error;
    },
  );
  const lines = stdout.split("\n").filter(Boolean);
  const parsed = lines.map((line) => JSON.parse(line) as { observation?: Observation; name?: string });
  return {
    steps: parsed.flatMap(({ name }) => (name === undefined ? [] : [name])),
    observations: parsed.flatMap(({ observation }) => (observation === undefined ? [] : [observation])),
  };
}

/** Brings the sandbox to where the last command starts. Returns that command. */
async function prepare(ground: Ground, dir: string, scenario: Scenario): Promise<VmCommand> {
  const [first, ...rest] = commandsOf([...scenario.before, scenario.kind], ground.imageSha256);
  const last = rest.pop() ?? first;
  if (first === undefined || last === undefined) throw new Error("a scenario has a command");
  if (first === last) return last;
  const calls = [
    { path: "/execute", body: { code: "x = 42" } },
    { path: "/files/write", body: { path: "/workspace/note", content: "kept" } },
  ];
  const { observations } = await host(ground, dir, 0, [first, ...calls, ...rest]);
  if (scenario.elsewhere !== true) return last;
  await rm(join(dir, "vm"), { recursive: true });
  const snapshot = observations.at(-1)?.snapshot;
  if (snapshot === undefined) throw new Error("the pause left no snapshot");
  const { generation, storeKey, manifestSha256 } = snapshot;
  return { ...last, snapshot: { generation, storeKey, manifestSha256 } };
}

async function check(ground: Ground, dir: string, scenario: Scenario, result: HostRun, operationId: string): Promise<void> {
  const last = result.observations.filter(({ operation, busyWith }) => operation?.id === operationId && busyWith === undefined).at(-1);
  expect(last, `the operation was reported: ${JSON.stringify(last?.operation)}`).toMatchObject({
    state: scenario.state,
    operation: { outcome: "succeeded" },
  });
  expect(vmmProcesses(dir), "VMM processes").toHaveLength(scenario.runs ? 1 : 0);
  const isDeleted = scenario.state === "deleted";
  const names = await readdir(isDeleted ? join(dir, "vm") : join(dir, "vm", SANDBOX));
  if (isDeleted) {
    expect(names).toEqual([]);
    expect(await readdir(join(dir, "trash"))).toEqual([]);
    expect(await readdir(join(dir, "store")).catch(() => [])).toEqual([]);
    return;
  }
  expect(
    names.filter((name) => /\.tmp$|^op\.json$|^snap\.\d+\.used$/.test(name)),
    "half-made files, and used ones",
  ).toEqual([]);
  const exchanged = await Promise.all(["out", "restore"].map((name) => readdir(join(dir, "vm", SANDBOX, name)).catch(() => [])));
  expect(exchanged.flat(), "parts of a snapshot that the VMM wrote or read").toEqual([]);
  // SN3: a valid snapshot never stands beside a VM that runs.
  expect(names.filter((name) => /^snap\.\d+$/.test(name))).toHaveLength(scenario.state === "paused" ? 1 : 0);
  if (!scenario.runs) return;
  const driver = driverNamed(ground.driverName);
  const guest = (path: string, body: object) => callGuest(driver, vmIn(dir), path, body);
  const printed = await guest("/execute", { code: "print(x)" });
  if (scenario.hasMemory) expect(printed["stdout"]).toBe("42\n");
  else expect(printed["stderr"]).toContain("NameError");
  if (scenario.hasFile) expect(await guest("/files/read", { path: "/workspace/note" })).toMatchObject({ content: "kept" });
}

let directories = 0;
/** Returns the steps of the last command, as far as they came. */
async function crashOnce(ground: Ground, scenario: Scenario, crashAt: number): Promise<string[]> {
  directories += 1;
  const dir = join(ground.root, `host-${directories}`);
  await mkdir(dir);
  try {
    const last = await prepare(ground, dir, scenario);
    const first = await host(ground, dir, crashAt, [last]);
    const { observations } = crashAt === 0 ? first : await host(ground, dir, 0, [last]);
    await check(ground, dir, scenario, { steps: first.steps, observations }, last.operationId);
    return first.steps;
  } finally {
    await killVmms(vmmProcesses(dir));
  }
}

const OF_EVERY_DRIVER: ReadonlySet<Kind> = new Set(["pause", "resume"]);
const titled = SCENARIOS.map((scenario) => {
  const { kind, before, elsewhere } = scenario;
  return { title: `${[...before, kind].join(", ")}${elsewhere === true ? " on another host" : ""}`, scenario };
});

describe.each(DRIVER_NAMES)("S33: on %s, the agent killed before every durable step of the last command, and after it", (driverName) => {
  let root: Awaited<ReturnType<typeof tempDir>>;
  let ground: Ground;
  beforeAll(async () => {
    root = await tempDir();
    const deep = join(root.path, DEEP);
    const imageSha256 = await prepareImages(join(deep, "images"), driverNamed(driverName));
    ground = { driverName, root: deep, imageSha256 };
  });
  afterAll(async () => {
    await root[Symbol.asyncDispose]();
  });

  // The order of the steps is the lifecycle's, whatever the driver; where a snapshot is written and read the driver has files and steps of its own.
  const scenarios =
    driverName === "simulated"
      ? titled
      : titled.filter(({ scenario }) => OF_EVERY_DRIVER.has(scenario.kind) && scenario.elsewhere !== true);
  test.each(scenarios)("$title", { timeout: 600_000 }, async ({ scenario }) => {
    const steps = await crashOnce(ground, scenario, 0);
    expect(steps.length).toBeGreaterThan(2);
    const crashes = [...steps, "the end"].map((name, at) => ({ name, at: at + 1 }));
    const failures: string[] = [];
    const work = async () => {
      for (let next = crashes.shift(); next !== undefined; next = crashes.shift()) {
        const { at, name } = next;
        await crashOnce(ground, scenario, at).catch((error: unknown) =>
          failures.push(`killed before step ${at} (${name}): ${String(error)}`),
        );
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    expect(failures).toEqual([]);
  });
});
