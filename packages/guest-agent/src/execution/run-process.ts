/** Runs one program of the user's to its end, with a limit on time. Its output goes to a sink, and waits when the sink does. */
import { constants } from "node:os";
import type { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { OutputSink, StreamName } from "./output.ts";
import { killGroup, type Program, spawnUserProgram, stopGroup, type UserChild } from "./user-process.ts";

export interface ProcessRequest {
  program: Program;
  /** Given to the program's standard input. */
  input?: string | undefined;
  timeoutMs: number;
  userCgroup: string | undefined;
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

/** What GNU `timeout` answers with, and shells after it. */
export const TIMEOUT_EXIT_CODE = 124;
const NOT_FOUND_EXIT_CODE = 127;
const CANNOT_RUN_EXIT_CODE = 126;
/** After the program has ended, what its background children write is not waited for: a moment of silence is the end. */
const SILENCE_MS = 200;
/** Nor read on without end: what the program itself wrote is in the pipe, which holds less than this. */
const LAST_WORDS_BYTES = 256 * 1024;

export async function runProcess(request: ProcessRequest): Promise<ExecutionEnd> {
  const startedAt = performance.now();
  const run = start(request);
  if (typeof run === "string") {
    await request.sink.write("stderr", run);
    return { exitCode: CANNOT_RUN_EXIT_CODE, timedOut: false, durationMs: performance.now() - startedAt };
  }
  const { child } = run;
  let timedOut = false;
  const stop = () => stopGroup(child.pid);
  const timer = setTimeout(() => {
    timedOut = true;
    stop();
  }, request.timeoutMs);
  request.signal.addEventListener("abort", stop, { once: true });
  if (request.signal.aborted) stop();
  const exitCode = await run.ended;
  clearTimeout(timer);
  request.signal.removeEventListener("abort", stop);
  if (timedOut) {
    // What the program has left behind ends with it.
    killGroup(child.pid, "SIGKILL");
    await request.sink.write("stderr", `\nstopped: the time limit of ${request.timeoutMs / 1000} s was reached\n`);
  }
  return {
    exitCode: timedOut ? TIMEOUT_EXIT_CODE : exitCode,
    timedOut,
    durationMs: performance.now() - startedAt,
    ...(child.pid === undefined ? {} : { pid: child.pid }),
  };
}

/** The running program, or what to say of one that the system refuses. */
function start(request: ProcessRequest): { child: UserChild; ended: Promise<number> } | string {
  let child: UserChild;
  try {
    child = spawnUserProgram(request.program, request.userCgroup);
  } catch (error) {
    return `${request.program.command}: ${(error as Error).message}\n`;
  }
  if (child.pid !== undefined) request.onStart?.(child.pid);
  child.stdin.on("error", () => {});
  child.stdin.end(request.input ?? "");
  const pumps = [new Pump("stdout", child.stdout, request.sink), new Pump("stderr", child.stderr, request.sink)];
  return { child, ended: untilEnded(child, request, pumps) };
}

async function untilEnded(child: UserChild, request: ProcessRequest, pumps: Pump[]): Promise<number> {
  const exitCode = await new Promise<number | Error>((resolve) => {
    child.once("error", resolve);
    child.once("exit", (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
  });
  await Promise.all(pumps.map((pump) => pump.finish()));
  if (typeof exitCode === "number") return exitCode;
  await request.sink.write("stderr", `${request.program.command}: ${exitCode.message}\n`);
  return NOT_FOUND_EXIT_CODE;
}

/** Carries one pipe into the sink, at the sink's pace. */
class Pump {
  private readonly stream: Readable;
  private readonly done: Promise<void>;
  private isWriting = false;
  private bytes = 0;

  constructor(name: StreamName, stream: Readable, sink: OutputSink) {
    this.stream = stream;
    this.done = this.run(name, sink);
  }

  /** The program has ended: reads what is left in the pipe, and lets go of it. */
  async finish(): Promise<void> {
    const limitBytes = this.bytes + LAST_WORDS_BYTES;
    let isDone = false;
    void this.done.then(() => (isDone = true));
    for (;;) {
      const seenBytes = this.bytes;
      await Promise.race([this.done, sleep(SILENCE_MS)]);
      const isSilent = this.bytes === seenBytes && !this.isWriting;
      if (isDone || isSilent || this.bytes > limitBytes) break;
    }
    this.stream.destroy();
    await this.done;
  }

  private async run(name: StreamName, sink: OutputSink): Promise<void> {
    try {
      for await (const chunk of this.stream as AsyncIterable<Buffer>) {
        this.bytes += chunk.length;
        this.isWriting = true;
        await sink.write(name, chunk);
        this.isWriting = false;
      }
    } catch {
      // Destroyed by `finish`.
    }
  }
}
