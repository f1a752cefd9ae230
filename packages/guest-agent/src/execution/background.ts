/**
 * Executions that run without a waiting client. They can be listed and ended, and are remembered
 * for a while after their end.
 */
import type { GuestLimits } from "../config.ts";
import { AgentError } from "../errors.ts";
import { randomId } from "../random.ts";
import { type OutputSink, TailText } from "./output.ts";
import { type Job, timeoutOf } from "./request.ts";
import type { ExecutionEnd } from "./run-process.ts";
import type { Runner } from "./runner.ts";

export type BackgroundStatus = "running" | "completed" | "failed" | "killed" | "timeout";

/** Newest output that is kept, per stream. */
const KEPT_OUTPUT_BYTES = 64 * 1024;

export interface Finished extends ExecutionEnd {
  status: BackgroundStatus;
  stdout: string;
  stderr: string;
}

export class BackgroundExecution implements OutputSink {
  readonly processId = `proc_${randomId(8)}`;
  readonly executionId = `exec_${randomId(8)}`;
  readonly job: Job;
  readonly name: string | undefined;
  private readonly startedAt = new Date();
  private readonly startedAtMs = performance.now();
  private readonly texts = {
    stdout: new TailText(KEPT_OUTPUT_BYTES),
    stderr: new TailText(KEPT_OUTPUT_BYTES),
  };
  private readonly stop = new AbortController();
  private pid: number | undefined;
  private end: ExecutionEnd | undefined;
  private endedAt: Date | undefined;
  private isKilled = false;

  constructor(job: Job, name: string | undefined) {
    this.job = job;
    this.name = name;
  }

  get isRunning(): boolean {
    return this.end === undefined;
  }

  get status(): BackgroundStatus {
    if (this.end === undefined) return "running";
    if (this.isKilled) return "killed";
    if (this.end.timedOut) return "timeout";
    return this.end.exitCode === 0 ? "completed" : "failed";
  }

  write(name: "stdout" | "stderr", data: Buffer | string): void {
    this.texts[name].add(data);
  }

  display(): void {}

  clear(): void {}

  /** Throws 429 at once when too many programs run. */
  start(runner: Runner): Promise<Finished> {
    const running = runner.start(this.job, {
      sink: this,
      signal: this.stop.signal,
      onStart: (pid) => (this.pid = pid),
    });
    return running.then((end) => {
      this.end = end;
      this.endedAt = new Date();
      return {
        ...end,
        status: this.status,
        stdout: this.texts.stdout.toString(),
        stderr: this.texts.stderr.toString(),
      };
    });
  }

  kill(): void {
    if (!this.isRunning) return;
    this.isKilled = true;
    this.stop.abort();
  }

  /** Has both spellings of each time: the SDKs disagree. */
  view() {
    const durationS = (this.end?.durationMs ?? performance.now() - this.startedAtMs) / 1000;
    const endTime =
      this.endedAt === undefined
        ? {}
        : { end_time: this.endedAt.toISOString(), completed_at: this.endedAt.toISOString() };
    return {
      process_id: this.processId,
      execution_id: this.executionId,
      name: this.name ?? this.job.title,
      status: this.status,
      language: this.job.language ?? "command",
      command: this.job.title,
      timeout: timeoutOf(this.job),
      start_time: this.startedAt.toISOString(),
      started_at: this.startedAt.toISOString(),
      ...endTime,
      ...(this.end === undefined ? {} : { exit_code: this.end.exitCode }),
      duration: durationS,
      execution_time: durationS,
      ...(this.pid === undefined ? {} : { pid: this.pid }),
      stdout: this.texts.stdout.toString(),
      stderr: this.texts.stderr.toString(),
    };
  }
}

export class BackgroundExecutions {
  private readonly runner: Runner;
  private readonly limits: GuestLimits;
  private readonly all = new Map<string, BackgroundExecution>();

  constructor(runner: Runner, limits: GuestLimits) {
    this.runner = runner;
    this.limits = limits;
  }

  /**
   * Starts the job and returns at once; `onEnd` gets the result. Throws 429 when too many programs
   * run.
   */
  start(
    job: Job,
    name: string | undefined,
    onEnd: (finished: Finished) => void = () => {},
  ): BackgroundExecution {
    const execution = new BackgroundExecution(job, name);
    const running = execution.start(this.runner);
    this.all.set(execution.processId, execution);
    running.then(onEnd, () => this.all.delete(execution.processId));
    this.forgetOldest();
    return execution;
  }

  list(): BackgroundExecution[] {
    return [...this.all.values()];
  }

  find(processId: string): BackgroundExecution | undefined {
    return (
      this.all.get(processId) ?? this.list().find(({ executionId }) => executionId === processId)
    );
  }

  /** Throws 404. An execution that has already ended keeps its status. */
  kill(processId: string): BackgroundExecution {
    const execution = this.find(processId);
    if (execution === undefined)
      throw new AgentError(404, "PROCESS_NOT_FOUND", `there is no process ${processId}`);
    execution.kill();
    return execution;
  }

  private forgetOldest(): void {
    const finished = this.list().filter(({ isRunning }) => !isRunning);
    const excess = finished.slice(0, Math.max(0, finished.length - this.limits.finishedExecutions));
    for (const { processId } of excess) this.all.delete(processId);
  }
}
