/** Runs one program of the user's to its end, in the users' cgroup and a process group of its own, with limits on time and output. */
import { spawn } from "node:child_process";
import { BoundedOutput } from "./output.ts";

export interface ProcessRequest {
  command: string;
  args: string[];
  cwd: string;
  env: Record<string, string>;
  timeoutMs: number;
  maxOutputBytes: number;
  /** Given to the program's standard input. */
  input?: string | undefined;
  userCgroup: string | undefined;
  signal: AbortSignal;
}

export interface ProcessResult {
  stdout: string;
  stderr: string;
  exitCode: number;
  timedOut: boolean;
  durationMs: number;
  pid: number | undefined;
}

/** What GNU `timeout` answers with, and shells after it. */
export const TIMEOUT_EXIT_CODE = 124;
const NOT_FOUND_EXIT_CODE = 127;
const KILL_AFTER_MS = 2_000;
/** After the program has ended, what its background children hold open is not waited for longer than this. */
const DRAIN_MS = 200;

export function runProcess(request: ProcessRequest): Promise<ProcessResult> {
  const startedAt = performance.now();
  const stdout = new BoundedOutput(request.maxOutputBytes);
  const stderr = new BoundedOutput(request.maxOutputBytes);
  const [command, args] = inCgroup(request);
  const child = spawn(command, args, { cwd: request.cwd, env: request.env, detached: true, stdio: ["pipe", "pipe", "pipe"] });
  let timedOut = false;
  const killGroup = (signal: NodeJS.Signals) => {
    if (child.pid === undefined) return;
    try {
      process.kill(-child.pid, signal);
    } catch {
      // The group is gone already.
    }
  };
  const stop = () => {
    killGroup("SIGTERM");
    setTimeout(() => killGroup("SIGKILL"), KILL_AFTER_MS).unref();
  };
  const timer = setTimeout(() => {
    timedOut = true;
    stop();
  }, request.timeoutMs);
  request.signal.addEventListener("abort", stop, { once: true });
  child.stdout.on("data", (chunk: Buffer) => stdout.add(chunk));
  child.stderr.on("data", (chunk: Buffer) => stderr.add(chunk));
  child.stdin.on("error", () => {});
  child.stdin.end(request.input ?? "");
  return new Promise((resolve) => {
    const finish = (exitCode: number) => {
      clearTimeout(timer);
      request.signal.removeEventListener("abort", stop);
      child.stdout.destroy();
      child.stderr.destroy();
      if (timedOut) stderr.add(`\nstopped: the time limit of ${request.timeoutMs / 1000} s was reached\n`);
      const code = timedOut ? TIMEOUT_EXIT_CODE : exitCode;
      resolve({
        stdout: stdout.toString(),
        stderr: stderr.toString(),
        exitCode: code,
        timedOut,
        durationMs: performance.now() - startedAt,
        pid: child.pid,
      });
    };
    child.once("error", (error) => {
      stderr.add(`${request.command}: ${error.message}\n`);
      finish(NOT_FOUND_EXIT_CODE);
    });
    child.once("exit", (code, signal) => {
      const exitCode = code ?? 128 + (signal === "SIGKILL" ? 9 : 15);
      const drained = setTimeout(() => finish(exitCode), DRAIN_MS);
      child.once("close", () => {
        clearTimeout(drained);
        finish(exitCode);
      });
    });
  });
}

/** Enters the cgroup before the program's first instruction, so that a freeze catches all of it. */
function inCgroup(request: ProcessRequest): [string, string[]] {
  if (request.userCgroup === undefined) return [request.command, request.args];
  const enter = `echo 0 > ${request.userCgroup}/cgroup.procs && exec "$@"`;
  return ["/bin/sh", ["-c", enter, "sh", request.command, ...request.args]];
}
