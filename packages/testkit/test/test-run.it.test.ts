/** After a run of the tests is killed, the next run ends what is left of it, and nothing else. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { createInterface } from "node:readline";
import { identify, isAlive, type ProcessIdentity } from "@torpor/service";
import { afterEach, beforeEach, expect, test } from "vitest";
import { tempDir } from "../src/index.ts";
import { mountsOf, processesOf, type SeenProcess } from "../src/test-run/belongs.ts";
import { beginTestRun, sweepKilledRuns } from "../src/test-run/index.ts";
import { readMountinfo, readProcesses } from "../src/test-run/kernel.ts";
import { readLeftovers } from "../src/test-run/leftovers.ts";
import type { MadeByRun } from "./support/killed-run.ts";

const RUNNER = join(import.meta.dirname, "support/killed-run.ts");
const started: ChildProcess[] = [];
let root: Awaited<ReturnType<typeof tempDir>>;

beforeEach(async () => {
  root = await tempDir();
});
afterEach(async () => {
  for (const child of started.splice(0)) await kill(child);
  // Also sweeps leftovers of a failed test.
  await sweep();
  await root[Symbol.asyncDispose]();
});

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}

async function sweep(): Promise<string[]> {
  const lines: string[] = [];
  await sweepKilledRuns(root.path, (line) => lines.push(line));
  return lines;
}

/** Starts without a terminal, and without this process's own run in the environment. */
function start(command: string, args: string[], cwd = "/"): ChildProcess {
  const [env, stdio] = [{ PATH: process.env["PATH"] }, ["ignore", "pipe", "inherit"] as const];
  const child = spawn(command, args, { cwd, env, stdio: [...stdio], detached: true });
  started.push(child);
  return child;
}

interface Begun extends MadeByRun {
  runner: ChildProcess;
  processes: (ProcessIdentity & { what: string })[];
}

async function begin(...more: "postgres"[]): Promise<Begun> {
  const runner = start(process.execPath, [RUNNER, root.path, ...more]);
  if (runner.stdout === null) throw new Error("nothing is heard of the runner");
  const [line] = (await once(createInterface(runner.stdout), "line")) as [string];
  const made = JSON.parse(line) as MadeByRun;
  if (made.mount === undefined) tellSkipped("mount");
  if (made.namespace === undefined) tellSkipped("network namespace");
  const pids = Object.entries(made.pids);
  return { ...made, runner, processes: pids.map(([what, pid]) => ({ what, ...identityOf(pid) })) };
}

function tellSkipped(what: string): void {
  process.stderr.write(`test-run.it.test.ts: no ${what} can be made here, so none is swept\n`);
}

function identityOf(pid: number | undefined): ProcessIdentity {
  const identity = identify(pid ?? 0);
  if (identity === undefined) throw new Error("the process is not there");
  return identity;
}

const aliveOf = ({ processes }: Begun) => processes.filter(isAlive).map(({ what }) => what);

/** Directories of a run: its own, and those that cannot be below it. */
const placesOf = (dir: string) => [dir, ...readLeftovers(dir).directory];

function processesIn(places: string[]): SeenProcess[] {
  return processesOf({ places, netNamespaces: [] }, readProcesses(), process.pid);
}

/** Shared memory of a run's Postgres. */
function sharedMemoryOf(places: string[]): string[] {
  const server = processesIn(places).find(({ args }) => args.includes("-D"));
  const maps = readFileSync(`/proc/${server?.pid}/maps`, "utf8");
  return maps.match(/\/dev\/shm\/PostgreSQL\S+/g) ?? [];
}

test("TS1: all of a killed run goes; a bystander, and a run that lives, stay", async () => {
  const killed = await begin("postgres");
  const places = placesOf(killed.dir);
  const sharedMemory = sharedMemoryOf(places);
  const living = await begin();
  const beside = `${killed.dir}.kept`;
  await mkdir(beside);
  const bystander = identityOf(start("sleep", ["600"], beside).pid);
  expect(await sweep(), "while both live").toEqual([]);

  await kill(killed.runner);
  expect(aliveOf(killed), "it was left").toHaveLength(killed.processes.length);
  const [line, ...more] = await sweep();
  expect(more).toEqual([]);
  expect(line).toMatch(/^ended what a killed run left: \d+ processes/);
  const network = ", 1 network namespace, 1 network device";
  if (killed.namespace !== undefined) expect(line).toContain(network);
  if (killed.mount !== undefined) expect(line).toContain(", 1 mount");

  expect(aliveOf(killed)).toEqual([]);
  expect(processesIn(places)).toEqual([]);
  expect(mountsOf(places, readMountinfo())).toEqual([]);
  expect(existsSync(`/run/netns/${killed.namespace}`)).toBe(false);
  expect(sharedMemory).not.toEqual([]);
  expect(sharedMemory.filter((path) => existsSync(path))).toEqual([]);
  expect(places.filter((path) => existsSync(path))).toEqual([]);

  expect(isAlive(bystander)).toBe(true);
  expect(aliveOf(living)).toHaveLength(living.processes.length);
  expect(existsSync(living.dir)).toBe(true);
  await kill(living.runner);
  await sweep();
  expect(aliveOf(living)).toEqual([]);
  expect(readdirSync(join(root.path, ".torpor/runs"))).toEqual([basename(beside)]);
  expect(isAlive(bystander)).toBe(true);
});

test("a run that ends in order ends what its tests have left, and leaves nothing", async () => {
  const before = process.env["TMPDIR"];
  const lines: string[] = [];
  const run = await beginTestRun(root.path, (line) => lines.push(line));
  const inRun = process.env["TMPDIR"];
  const left = identityOf(start("sleep", ["600"], inRun).pid);
  await run[Symbol.asyncDispose]();
  expect(inRun).toBe(join(run.dir, "tmp"));
  expect(process.env["TMPDIR"]).toBe(before);
  expect(lines).toEqual(["ended what the tests left: 1 process"]);
  expect(isAlive(left)).toBe(false);
  expect(existsSync(run.dir)).toBe(false);
});

test("a run that was killed while it began leaves nothing; what is no run stays", async () => {
  const runs = join(root.path, ".torpor/runs");
  const names = ["abc123", "abc123.kept", "notes"];
  for (const name of names) await mkdir(join(runs, name), { recursive: true });
  expect(await sweep()).toEqual([]);
  expect(readdirSync(runs).toSorted()).toEqual(["abc123.kept", "notes"]);
});
