/** How a program of the user's is started: in the users' cgroup from its first instruction on, so that limits and a freeze catch all of it, and in a process group of its own. */
import { type ChildProcess, spawn } from "node:child_process";
import type { Readable, Writable } from "node:stream";

/** When memory runs out, a command ends before the Python kernel, which holds the sandbox's state (kernel_bridge.py). Added to what the program uses, in thousandths of all memory. */
const OOM_SCORE = 200;

export interface Program {
  command: string;
  args: string[];
  cwd: string;
  env: Record<string, string>;
}

export interface UserChild extends ChildProcess {
  stdin: Writable;
  stdout: Readable;
  stderr: Readable;
}

/** Throws like `spawn` when the system refuses at once (an argument list that is too long). */
export function spawnUserProgram(program: Program, userCgroup: string | undefined): UserChild {
  const [command, args] = userCgroup === undefined ? [program.command, program.args] : inCgroup(program, userCgroup);
  return spawn(command, args, { cwd: program.cwd, env: program.env, detached: true, stdio: ["pipe", "pipe", "pipe"] }) as UserChild;
}

function inCgroup({ command, args }: Program, userCgroup: string): [string, string[]] {
  const enter = `echo 0 > ${userCgroup}/cgroup.procs && echo ${OOM_SCORE} > /proc/self/oom_score_adj && exec "$@"`;
  return ["/bin/sh", ["-c", enter, "sh", command, ...args]];
}

/** False when there is no such group any more. */
export function killGroup(pid: number | undefined, signal: NodeJS.Signals): boolean {
  if (pid === undefined) return false;
  try {
    return process.kill(-pid, signal);
  } catch {
    return false;
  }
}

const KILL_AFTER_MS = 2_000;

/** Asks the whole group to end, and ends it if it does not. */
export function stopGroup(pid: number | undefined): void {
  if (killGroup(pid, "SIGTERM")) setTimeout(() => killGroup(pid, "SIGKILL"), KILL_AFTER_MS).unref();
}
