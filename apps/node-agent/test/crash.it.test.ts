/**
 * The agent is killed before every durable step of every command and after the last, then started again; the command is delivered once more, as the broker does. Whatever the moment:
 * the command ends as it would have, memory and files are what they were, exactly the right VMM process runs, and nothing half-made is left.
 */
import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Observation, VmCommand } from "@torpor/contracts";
import { findProcesses, isAlive, type ProcessIdentity, signalProcess } from "@torpor/service";
import { makeSimulatedImage, tempDir } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SimulatedDriver } from "../src/drivers/simulated/simulated.ts";
import { listImages } from "../src/images.ts";
import { ensureGolden } from "../src/lifecycle/golden.ts";
import { httpGuest } from "../src/lifecycle/guest.ts";
import type { GuestCall } from "./support/host-process.ts";

const run = promisify(execFile);
const HOST = fileURLToPath(new URL("support/host-process.ts", import.meta.url));
const SANDBOX = "1795490791abcdefgh";
const AT_ONCE = 3;

let root: Awaited<ReturnType<typeof tempDir>>;
let imageSha256: string;
beforeAll(async () => {
  root = await tempDir();
  const imagesDir = join(root.path, "images");
  await mkdir(imagesDir);
  imageSha256 = await makeSimulatedImage(imagesDir);
  const driver = new SimulatedDriver();
  for (const image of await listImages(imagesDir)) {
    await ensureGolden(image, { driver, guest: httpGuest(driver), uid: undefined, scratchDir: join(imagesDir, ".scratch"), say: () => {} });
  }
});
afterAll(async () => {
  await root[Symbol.asyncDispose]();
});

type Kind = Exclude<VmCommand["kind"], "cancel" | "discard">;

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

function commandsOf({ kind, before }: Scenario): VmCommand[] {
  const spec = {
    sandboxId: SANDBOX,
    templateName: "code-interpreter",
    imageSha256,
    resources: { vcpu: 1, memoryMib: 64, diskMib: 16 },
    internetAccess: false,
    envVars: {},
  };
  let epoch = 0;
  return [...before, kind].map((one, at) => {
    if (one === "create" || one === "resume" || one === "start") epoch += 1;
    const opSeq = at + 1;
    const operationId = `op_${opSeq.toString(16).padStart(32, "0")}`;
    const deadlineAt = "2099-01-01T00:00:00.000Z";
    return { type: "command", version: 1, kind: one, hostId: "host-1", operationId, epoch: Math.max(1, epoch), opSeq, deadlineAt, spec };
  });
}

interface HostRun {
  /** Names of the durable steps of the last command. */
  steps: string[];
  observations: Observation[];
}

async function host(dir: string, crashAt: number, todo: (VmCommand | GuestCall)[]): Promise<HostRun> {
  const args = [HOST, dir, String(crashAt), ...todo.map((one) => JSON.stringify(one))];
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
async function prepare(dir: string, scenario: Scenario): Promise<VmCommand> {
  const [first, ...rest] = commandsOf(scenario);
  const last = rest.pop() ?? first;
  if (first === undefined || last === undefined) throw new Error("a scenario has a command");
  if (first === last) return last;
  const calls = [
    { path: "/execute", body: { code: "x = 42" } },
    { path: "/files/write", body: { path: "/workspace/note", content: "kept" } },
  ];
  const { observations } = await host(dir, 0, [first, ...calls, ...rest]);
  if (scenario.elsewhere !== true) return last;
  await rm(join(dir, "vm"), { recursive: true });
  const snapshot = observations.at(-1)?.snapshot;
  if (snapshot === undefined) throw new Error("the pause left no snapshot");
  const { generation, storeKey, manifestSha256 } = snapshot;
  return { ...last, snapshot: { generation, storeKey, manifestSha256 } };
}

async function guest(dir: string, path: string, body: object): Promise<Record<string, unknown>> {
  const { guest } = JSON.parse(await readFile(join(dir, "vm", SANDBOX, "run.json"), "utf8")) as { guest: { port: number } };
  const response = await fetch(`http://127.0.0.1:${guest.port}${path}`, {
    method: "POST",
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(5_000),
  });
  return (await response.json()) as Record<string, unknown>;
}

/** Every VMM process of the sandbox in this directory, recorded or not. */
function vmmProcesses(dir: string): ProcessIdentity[] {
  return findProcesses(join(dir, "vm", SANDBOX), "TORPOR_VMM", SANDBOX).filter(isAlive);
}

async function check(dir: string, scenario: Scenario, result: HostRun, operationId: string): Promise<void> {
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
    names.filter((name) => name.endsWith(".tmp") || name === "op.json"),
    "half-made files",
  ).toEqual([]);
  // SN3: a valid snapshot never stands beside a VM that runs.
  expect(names.filter((name) => /^snap\.\d+$/.test(name))).toHaveLength(scenario.state === "paused" ? 1 : 0);
  if (!scenario.runs) return;
  const printed = await guest(dir, "/execute", { code: "print(x)" });
  if (scenario.hasMemory) expect(printed["stdout"]).toBe("42\n");
  else expect(printed["stderr"]).toContain("NameError");
  if (scenario.hasFile) expect(await guest(dir, "/files/read", { path: "/workspace/note" })).toMatchObject({ content: "kept" });
}

let directories = 0;
/** Returns the steps of the last command, as far as they came. */
async function crashOnce(scenario: Scenario, crashAt: number): Promise<string[]> {
  directories += 1;
  const dir = join(root.path, `host-${directories}`);
  await mkdir(dir);
  try {
    const last = await prepare(dir, scenario);
    const first = await host(dir, crashAt, [last]);
    const { observations } = crashAt === 0 ? first : await host(dir, 0, [last]);
    await check(dir, scenario, { steps: first.steps, observations }, last.operationId);
    return first.steps;
  } finally {
    for (const identity of vmmProcesses(dir)) signalProcess(identity, "SIGKILL");
  }
}

const titled = SCENARIOS.map((scenario) => {
  const { kind, before, elsewhere } = scenario;
  return { title: `${[...before, kind].join(", ")}${elsewhere === true ? " on another host" : ""}`, scenario };
});

describe("S33: the agent killed before every durable step of the last command, and after it", () => {
  test.each(titled)("$title", { timeout: 600_000 }, async ({ scenario }) => {
    const steps = await crashOnce(scenario, 0);
    expect(steps.length).toBeGreaterThan(2);
    const crashes = [...steps, "the end"].map((name, at) => ({ name, at: at + 1 }));
    const failures: string[] = [];
    const work = async () => {
      for (let next = crashes.shift(); next !== undefined; next = crashes.shift()) {
        const { at, name } = next;
        await crashOnce(scenario, at).catch((error: unknown) => failures.push(`killed before step ${at} (${name}): ${String(error)}`));
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    expect(failures).toEqual([]);
  });
});
