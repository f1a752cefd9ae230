/**
 * Scenarios of the crash tests: the commands before the last one, how to make a host in that state,
 * and what is true once the last command has ended.
 */
import { execFile } from "node:child_process";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Observation, VmCommand } from "@torpor/contracts";
import { expect } from "vitest";
import { type DriverName, driverNamed } from "./drivers.ts";
import type { Lost } from "./lost-host.ts";
import {
  callGuest,
  commandsOf,
  isEndOf,
  type Kind,
  SANDBOX,
  TestHost,
  vmIn,
  vmmProcesses,
} from "./test-host.ts";

const run = promisify(execFile);

export interface Scenario {
  before: Kind[];
  kind: Kind;
  /**
   * The host has lost the result of the earlier commands, or never had it: only the store has it.
   */
  elsewhere?: boolean;
  state: Observation["state"];
  /** Parts of the user's earlier work that the last command keeps. */
  keeps: "memory and files" | "files" | "nothing";
  /**
   * Points at which the host can be lost: before each durable step of the last command, and at its
   * end.
   */
  points: number;
}

/** Little, because Cloud Hypervisor's snapshots have this size, and are often read and hashed. */
export const MEMORY_MIB = 8;

const RUNNING: Kind[] = ["create"];
const PAUSED: Kind[] = ["create", "pause"];

export const SCENARIOS: Scenario[] = [
  { before: [], kind: "create", state: "running", keeps: "nothing", points: 10 },
  { before: RUNNING, kind: "pause", state: "paused", keeps: "memory and files", points: 11 },
  { before: PAUSED, kind: "resume", state: "running", keeps: "memory and files", points: 10 },
  {
    before: PAUSED,
    kind: "resume",
    elsewhere: true,
    state: "running",
    keeps: "memory and files",
    points: 16,
  },
  { before: RUNNING, kind: "stop", state: "stopped", keeps: "files", points: 6 },
  { before: PAUSED, kind: "stop", state: "stopped", keeps: "files", points: 6 },
  { before: ["create", "stop"], kind: "start", state: "running", keeps: "files", points: 8 },
  { before: RUNNING, kind: "delete", state: "deleted", keeps: "nothing", points: 8 },
  { before: PAUSED, kind: "delete", state: "deleted", keeps: "nothing", points: 7 },
];

/** Root directory, image and driver of the hosts. */
export interface CrashGround {
  driverName: DriverName;
  root: string;
  imageSha256: string;
}

/** The state in which the last command of a scenario starts. */
export interface Start {
  command: VmCommand;
  /** A host that has completed all earlier commands, in its own directory. */
  newHost(): Promise<string>;
}

/**
 * Prepares the state before the last command. A sandbox at rest is prepared once, and its host is
 * copied. A running sandbox has a VMM, so each host is prepared separately.
 */
export async function startOf(ground: CrashGround, scenario: Scenario): Promise<Start> {
  const { before, kind, elsewhere } = scenario;
  const earlier = commandsOf([...before, kind], ground.imageSha256, MEMORY_MIB);
  const command = earlier.pop();
  if (command === undefined) throw new Error("a scenario has a command");
  if (before.at(-1) === "create")
    return { command, newHost: async () => (await broughtTo(ground, earlier)).dir };
  const { dir: original, snapshot } = await broughtTo(ground, earlier);
  const newHost = async () => {
    const dir = await newDirectory(ground);
    await run("cp", ["--archive", "--reflink=auto", "--", `${original}/.`, dir]);
    return dir;
  };
  if (elsewhere !== true) return { command, newHost };
  if (snapshot === undefined) throw new Error("only a paused sandbox can be resumed elsewhere");
  await rm(join(original, "vm"), { recursive: true });
  return { command: { ...command, snapshot }, newHost };
}

let directories = 0;
async function newDirectory({ root }: CrashGround): Promise<string> {
  directories += 1;
  const dir = join(root, `host-${directories}`);
  await mkdir(dir);
  return dir;
}

interface Brought {
  dir: string;
  /** Snapshot in the store, of a paused sandbox. */
  snapshot?: NonNullable<VmCommand["snapshot"]>;
}

/** A host that takes over the directory, and is closed after `body`. */
async function withHost<T>(
  { driverName }: CrashGround,
  dir: string,
  body: (host: TestHost) => Promise<T>,
): Promise<T> {
  const host = new TestHost(dir, driverNamed(driverName));
  try {
    await host.supervisor.adopt();
    return await body(host);
  } finally {
    await host.close();
  }
}

/**
 * A new host that has completed the commands. After the first one, a create, the user works a bit.
 */
async function broughtTo(ground: CrashGround, [create, ...rest]: VmCommand[]): Promise<Brought> {
  const dir = await newDirectory(ground);
  if (create === undefined) return { dir };
  return await withHost(ground, dir, async (host) => {
    const created = await host.bring([create]);
    await host.guest("/execute", { code: "x = 42" });
    const { state } = rest.length === 0 ? created : await host.bring(rest);
    if (state !== "paused") return { dir };
    const { generation, storeKey, manifestSha256 } = await host.stored();
    return { dir, snapshot: { generation, storeKey, manifestSha256 } };
  });
}

/** Another host takes over what the lost one left, and everything is as the scenario expects. */
export async function expectTakenOver(
  ground: CrashGround,
  dir: string,
  scenario: Scenario,
  command: VmCommand,
  { isAcknowledged }: Lost,
): Promise<void> {
  const wentOn = await userGoesOn(ground, dir, scenario);
  const { state } = scenario;
  const seen = await takeOver(ground, dir, command, isAcknowledged);
  const last = seen.findLast((one) => isEndOf(command, one));
  const expected = { state, operation: { outcome: "succeeded" } };
  expect(last, `reported: ${JSON.stringify(last?.operation)}`).toMatchObject(expected);
  expect(vmmProcesses(dir), "VMM processes").toHaveLength(state === "running" ? 1 : 0);
  if (state === "deleted") await expectNothing(dir);
  else await expectWhole(dir, state);
  if (state === "running") await expectGuest(ground, dir, scenario, wentOn);
}

/** A resumed guest that runs without a host: what the user does now must not be undone. */
async function userGoesOn({ driverName }: CrashGround, dir: string, scenario: Scenario) {
  if (scenario.kind !== "resume") return false;
  const driver = driverNamed(driverName);
  const runs = (await driver.inspect(vmIn(dir))).kind === "running";
  if (runs) await callGuest(driver, vmIn(dir), "/execute", { code: "y = 43" });
  return runs;
}

/** Delivers the command again. Returns the host's observations. */
async function takeOver(
  ground: CrashGround,
  dir: string,
  command: VmCommand,
  isAcknowledged: boolean,
): Promise<Observation[]> {
  return await withHost(ground, dir, async (host) => {
    // SV2: an acknowledged command is completed without another delivery. Only a delete may have to
    // be requested again, and is, until its host has confirmed it: its journal is removed with the
    // sandbox.
    if (isAcknowledged && command.kind !== "delete")
      expect(await host.supervisor.submit(command)).toBe("repeated");
    const { state } = await host.complete(command);
    if (state === "paused") await host.stored();
    return host.seen;
  });
}

async function expectNothing(dir: string): Promise<void> {
  expect(await readdir(join(dir, "vm"))).toEqual([]);
  expect(await readdir(join(dir, "trash"))).toEqual([]);
  expect(await readdir(join(dir, "store")).catch(() => [])).toEqual([]);
}

async function expectWhole(dir: string, state: Scenario["state"]): Promise<void> {
  const vmDir = join(dir, "vm", SANDBOX);
  const names = await readdir(vmDir);
  expect(
    names.filter((name) => /\.tmp$|^op\.json$|^snap\.\d+\.used$/.test(name)),
    "half-made files, and used ones",
  ).toEqual([]);
  const namesIn = (name: string) => readdir(join(vmDir, name)).catch(() => []);
  const exchanged = await Promise.all(["out", "restore"].map(namesIn));
  expect(exchanged.flat(), "parts of a snapshot that the VMM wrote or read").toEqual([]);
  // SN3: a valid snapshot never exists beside a running VM.
  const snapshots = names.filter((name) => /^snap\.\d+$/.test(name));
  expect(snapshots).toHaveLength(state === "paused" ? 1 : 0);
}

async function expectGuest(
  { driverName }: CrashGround,
  dir: string,
  { keeps }: Scenario,
  wentOn: boolean,
): Promise<void> {
  const driver = driverNamed(driverName);
  const guest = (path: string, body: object) => callGuest(driver, vmIn(dir), path, body);
  const printed = await guest("/execute", { code: "print(x)" });
  if (keeps === "memory and files") expect(printed["stdout"]).toBe("42\n");
  else expect(printed["stderr"]).toContain("NameError");
  if (wentOn)
    expect(await guest("/execute", { code: "print(y)" })).toMatchObject({ stdout: "43\n" });
  const note = { content: keeps === "nothing" ? null : "kept" };
  expect(await guest("/files/read", { path: "/workspace/note" })).toMatchObject(note);
}
