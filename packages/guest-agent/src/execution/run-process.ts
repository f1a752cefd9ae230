/**
 * Runs one program of the user to its end, with a time limit. The program's output goes to a sink,
 * at the sink's pace.
 *
 * R1  The run ends with the program itself. Its surviving children live on; the run waits for them
 *     only LINGER_MS, and still takes their output in that time.
 * R2  Everything that the program wrote reaches the sink; what its children write later is read and
 *     dropped.
 * R3  A time limit, or a client that leaves, ends the program with its session; after the program's
 *     end, neither ends anything.
 */
import type { ChildProcess } from "node:child_process";
import { constants } from "node:os";
import { withLimit } from "../limits.ts";
import type { OutputSink } from "./output.ts";
import type { Pipes } from "./pipes.ts";
import { Pump } from "./pump.ts";
import {
  killSession,
  type Outputs,
  type UserProgram,
  spawnUserProgram,
  stopSession,
  type UserProcess,
} from "./user-process.ts";

export interface ProcessRequest {
  program: UserProgram;
  /** Data for the program's standard input. */
  input?: string | undefined;
  /** Undefined: no limit. */
  timeoutMs: number | undefined;
  userCgroup: string | undefined;
  pipes: Pipes;
  sink: OutputSink;
  /** Ends the program when aborted. */
  signal: AbortSignal;
  onStart?: (pid: number) => void;
}

export interface ExecutionEnd {
  exitCode: number;
  timedOut: boolean;
  durationMs: number;
  pid?: number | undefined;
}

/** The exit code of GNU `timeout`, which shells adopt. */
export const TIMEOUT_EXIT_CODE = 124;
/**
 * A process that holds the output after the program's end may be a part of the program and about to
 * end too, as in `exec > >(tee log)`. A server that is left running holds the output as long as it
 * lives.
 */
const LINGER_MS = 500;
const NOT_FOUND_EXIT_CODE = 127;
const CANNOT_RUN_EXIT_CODE = 126;

export async function runProcess(request: ProcessRequest): Promise<ExecutionEnd> {
  const startedAt = performance.now();
  const { program, sink } = request;
  const started = start(request, [await request.pipes.take(), await request.pipes.take()]);
  if (started instanceof Error) {
    await sink.write("stderr", `${program.command}: ${started.message}\n`);
    return {
      exitCode: CANNOT_RUN_EXIT_CODE,
      timedOut: false,
      durationMs: performance.now() - startedAt,
    };
  }
  const { child, stdout, stderr } = started;
  const pumps = [new Pump("stdout", stdout, sink), new Pump("stderr", stderr, sink)];
  const { code, timedOut } = await untilEnded(child, request);
  // The time limit also ends what the program has left running.
  if (timedOut) killSession(child.pid);
  child.stdin?.destroy();
  const linger = withLimit(Promise.all(pumps.map(({ ended }) => ended)), LINGER_MS);
  await Promise.all(pumps.map((pump) => pump.finish(linger)));
  const note = timedOut
    ? `\nstopped: the time limit of ${(request.timeoutMs ?? 0) / 1000} s was reached\n`
    : undefined;
  const failure = code instanceof Error ? `${program.command}: ${code.message}\n` : undefined;
  for (const text of [failure, note]) if (text !== undefined) await sink.write("stderr", text);
  return {
    exitCode: timedOut ? TIMEOUT_EXIT_CODE : code instanceof Error ? NOT_FOUND_EXIT_CODE : code,
    timedOut,
    durationMs: performance.now() - startedAt,
    ...(child.pid === undefined ? {} : { pid: child.pid }),
  };
}

/** The running program, or the error with which the system refuses it. */
function start(request: ProcessRequest, outputs: Outputs): UserProcess | Error {
  const { program, input, userCgroup, onStart } = request;
  try {
    const started = spawnUserProgram(program, input, userCgroup, outputs);
    if (started.child.pid !== undefined) onStart?.(started.child.pid);
    return started;
  } catch (error) {
    return error as Error;
  }
}

/** The exit code, or the error if the program could not be started. */
async function untilEnded(
  child: ChildProcess,
  { timeoutMs, signal }: ProcessRequest,
): Promise<{ code: number | Error; timedOut: boolean }> {
  let timedOut = false;
  const stop = () => stopSession(child.pid);
  const onLimit = () => {
    timedOut = true;
    stop();
  };
  const timer = timeoutMs === undefined ? undefined : setTimeout(onLimit, timeoutMs);
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  const code = await new Promise<number | Error>((resolve) => {
    child.once("error", resolve);
    child.once("exit", (status, name) => {
      // Immediately: from here on, the remaining processes of the group must live on (R1).
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      resolve(status ?? 128 + (name === null ? 0 : constants.signals[name]));
    });
  });
  clearTimeout(timer);
  signal.removeEventListener("abort", stop);
  return { code, timedOut };
}
