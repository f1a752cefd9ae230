import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import {
  findProcesses,
  identify,
  isAlive,
  type ProcessIdentity,
  residentBytes,
  signalProcess,
  waitUntilGone,
} from "../src/index.ts";

const started: ChildProcess[] = [];
afterEach(async () => {
  for (const child of started.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill("SIGKILL");
    await once(child, "exit");
  }
});

async function start(
  options: { cwd?: string; env?: NodeJS.ProcessEnv; command?: string[] } = {},
): Promise<ProcessIdentity & { child: ChildProcess }> {
  const [command = "sleep", ...args] = options.command ?? ["sleep", "60"];
  const child = spawn(command, args, {
    stdio: ["pipe", "pipe", "ignore"],
    cwd: options.cwd,
    env: options.env ?? process.env,
  });
  started.push(child);
  await once(child, "spawn");
  const identity = identify(child.pid ?? 0);
  if (identity === undefined) throw new Error("it is not there");
  return { ...identity, child };
}

test("a process is known by pid, start time and boot: an older one of the same pid is dead, and is not signalled", async () => {
  const { child, ...own } = await start();
  expect(isAlive(own)).toBe(true);
  // A recycled pid, as seen by a process that remembers the first owner.
  const earlier = { ...own, startTime: String(Number(own.startTime) - 1) };
  const beforeReboot = { ...own, bootId: "00000000-0000-0000-0000-000000000000" };
  for (const stranger of [earlier, beforeReboot]) {
    expect(isAlive(stranger)).toBe(false);
    signalProcess(stranger, "SIGKILL");
    expect(await waitUntilGone(stranger, 0)).toBe(true);
  }
  expect([isAlive(own), child.exitCode, child.signalCode]).toEqual([true, null, null]);
  expect(residentBytes(own.pid)).toBeGreaterThan(0);
});

test("a process that ended is dead, also as a zombie that nobody has waited for", async () => {
  // The child ends after the shell, which would have waited for it, has become another program.
  const parent = await start({ command: ["sh", "-c", "sleep 0.3 & echo $!; exec sleep 60"] });
  const [line] = (await once(parent.child.stdout ?? parent.child, "data")) as [Buffer];
  const pid = Number(line.toString());
  const zombie = identify(pid);
  expect(zombie, "its entry is still there").toBeDefined();
  if (zombie !== undefined) expect(await waitUntilGone(zombie, 5_000)).toBe(true);
  expect(identify(pid), "and stays there, dead").toBeDefined();
});

test("a name that looks like the end of the stat line deceives nobody", async () => {
  const { pid } = await start({ command: ["bash", "-c", "exec -a ') Z 1 (' sleep 60"] });
  const named = await start({
    command: ["sh", "-c", "printf ') Z 1 (' > /proc/self/comm; echo; read x"],
  });
  await once(named.child.stdout ?? named.child, "data");
  for (const id of [pid, named.pid]) {
    const identity = identify(id);
    expect(identity !== undefined && isAlive(identity)).toBe(true);
  }
});

test("a wait for the end gives up at its limit and when it is told to", async () => {
  const own = await start();
  expect(await waitUntilGone(own, 30)).toBe(false);
  expect(await waitUntilGone(own, 60_000, AbortSignal.abort())).toBe(false);
  signalProcess(own, "SIGKILL");
  expect(await waitUntilGone(own, 10_000)).toBe(true);
});

test("processes are found by directory and environment together", async () => {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), "torpor-processes-")));
  try {
    const wanted = await start({ cwd: dir, env: { ...process.env, TORPOR_TEST: "one" } });
    await start({ cwd: dir, env: { ...process.env, TORPOR_TEST: "other" } });
    await start({ env: { ...process.env, TORPOR_TEST: "one" } });
    expect(findProcesses(dir, "TORPOR_TEST", "one")).toEqual([
      { pid: wanted.pid, startTime: wanted.startTime, bootId: wanted.bootId },
    ]);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("there is no process of a pid that is not taken", () => {
  expect(identify(2 ** 22 + 1)).toBeUndefined();
});
