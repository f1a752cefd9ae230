/**
 * Starts a user's program: in the users' cgroup from its first instruction, so that limits and the
 * cgroup freezer apply to all of it, and as the leader of its own session and process group.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, readdirSync, readFileSync } from "node:fs";
import { Readable } from "node:stream";
import type { Pipe } from "./pipes.ts";

/**
 * When memory runs out, a command is killed before the Python kernel, which holds the sandbox's
 * state (kernel_bridge.py). The score is added to the program's memory use, in thousandths of all
 * memory.
 */
const OOM_SCORE = 200;

export interface UserProgram {
  command: string;
  args: string[];
  cwd: string;
  env: Record<string, string>;
}

export interface UserProcess {
  child: ChildProcess;
  stdout: Readable;
  stderr: Readable;
}

/** Pipes for standard output and error; undefined uses Node's own pipe. */
export type Outputs = readonly [Pipe | undefined, Pipe | undefined];

/**
 * Without input, standard input is at its end. Throws like `spawn` when the system refuses at once
 * (an argument list that is too long).
 */
export function spawnUserProgram(
  { command, args, cwd, env }: UserProgram,
  input: string | undefined,
  userCgroup: string | undefined,
  outputs: Outputs,
): UserProcess {
  const line =
    userCgroup === undefined ? [command, ...args] : inCgroup([command, ...args], userCgroup);
  const [out, error] = outputs;
  const stdio = [
    input === undefined ? "ignore" : "pipe",
    out?.descriptor ?? "pipe",
    error?.descriptor ?? "pipe",
  ] as const;
  try {
    const child = spawn(line[0] ?? "", line.slice(1), {
      cwd,
      env,
      detached: true,
      stdio: [...stdio],
    });
    child.stdin?.on("error", () => {});
    child.stdin?.end(input);
    return {
      child,
      stdout: out?.stream ?? ended(child.stdout),
      stderr: error?.stream ?? ended(child.stderr),
    };
  } catch (cause) {
    for (const pipe of outputs) pipe?.stream.destroy();
    throw cause;
  } finally {
    for (const pipe of outputs) if (pipe !== undefined) closeSync(pipe.descriptor);
  }
}

/** An empty stream for a child that could not be started. */
const ended = (stream: Readable | null): Readable => stream ?? Readable.from([]);

function inCgroup(line: string[], userCgroup: string): string[] {
  const enter = `echo 0 > ${userCgroup}/cgroup.procs && echo ${OOM_SCORE} > /proc/self/oom_score_adj && exec "$@"`;
  return ["/bin/sh", "-c", enter, "sh", ...line];
}

const KILL_AFTER_MS = 2_000;
/** Each round finds processes that were started during the one before. */
const KILL_ROUNDS = 5;

/**
 * Sends SIGTERM to all that the program has started in its session, and SIGKILL if anything
 * remains.
 */
export function stopSession(pid: number | undefined): void {
  if (signalSession(pid, "SIGTERM")) setTimeout(() => killSession(pid), KILL_AFTER_MS).unref();
}

export function killSession(pid: number | undefined): void {
  for (let round = 0; round < KILL_ROUNDS; round += 1) if (!signalSession(pid, "SIGKILL")) return;
}

/**
 * The program is the leader of a session and of a process group. Shells with job control and
 * `timeout` make other groups in the session. A process that makes its own session (`setsid`) is
 * meant to live on. Returns false when no process got the signal.
 */
function signalSession(pid: number | undefined, signal: NodeJS.Signals): boolean {
  if (pid === undefined) return false;
  // One call for the whole group misses no process, however fast the group forks.
  const hadGroup = send(-pid, signal);
  const others = sessionMembers(pid).filter((member) => send(member, signal));
  return hadGroup || others.length > 0;
}

function sessionMembers(session: number): number[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.map(Number).filter((pid) => {
    const [, , group, of] = statFields(pid);
    return of === String(session) && group !== of;
  });
}

/** The fields of /proc/<pid>/stat, from the state on. */
function statFields(pid: number): string[] {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  } catch {
    return [];
  }
}

function send(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}
