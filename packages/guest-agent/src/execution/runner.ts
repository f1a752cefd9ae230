/**
 * Runs jobs of every kind. Only the runner counts jobs, limits their number, and gives them the
 * sandbox's variables.
 */
import { dirname, join } from "node:path";
import type { GuestActivity } from "../activity.ts";
import { Budget } from "../budget.ts";
import type { GuestAgentConfig } from "../config.ts";
import type { Environment } from "../environment.ts";
import { Gate } from "./gate.ts";
import { CollectedOutput, type Display, type OutputSink } from "./output.ts";
import { Pipes } from "./pipes.ts";
import type { PythonKernel } from "./python-kernel.ts";
import type { Job } from "./request.ts";
import { type ExecutionEnd, runProcess } from "./run-process.ts";

export interface CodeRunOptions {
  sink: OutputSink;
  signal: AbortSignal;
  onStart?: (pid: number) => void;
}

export interface CollectedRun extends ExecutionEnd {
  stdout: string;
  stderr: string;
  displays: Display["data"][];
}

export class Runner {
  private readonly config: GuestAgentConfig;
  private readonly environment: Environment;
  private readonly kernel: PythonKernel;
  private readonly activity: GuestActivity;
  private readonly pipes: Pipes;
  private readonly gate: Gate;
  private readonly outputs: Budget;
  /** Jobs started since the agent started. */
  startedTotal = 0;

  constructor(deps: {
    config: GuestAgentConfig;
    environment: Environment;
    kernel: PythonKernel;
    activity: GuestActivity;
  }) {
    this.config = deps.config;
    this.environment = deps.environment;
    this.kernel = deps.kernel;
    this.activity = deps.activity;
    this.pipes = new Pipes(join(dirname(deps.config.keyFile), "pipes"));
    this.gate = new Gate(deps.config.limits.executions, "programs run in this sandbox");
    this.outputs = new Budget(deps.config.limits.outputsBytes);
  }

  /**
   * Starts the job; resolves at its end. Throws 429 at once when too many programs run; a failure
   * of the program itself is a result.
   */
  start(job: Job, options: CodeRunOptions): Promise<ExecutionEnd> {
    const leave = this.gate.enter();
    const end = this.activity.execution();
    this.startedTotal += 1;
    return this.run(job, options).finally(() => {
      end();
      leave();
    });
  }

  /** Runs the job to its end, and returns all of its output. */
  async collect(job: Job, signal: AbortSignal): Promise<CollectedRun> {
    const output = new CollectedOutput(this.config.limits.outputBytes, this.outputs);
    try {
      const end = await this.start(job, { sink: output, signal });
      return { ...end, ...output.close() };
    } finally {
      output.close();
    }
  }

  private async run(job: Job, { sink, signal, onStart }: CodeRunOptions): Promise<ExecutionEnd> {
    const { workdir, timeoutMs, program } = job;
    if (program === undefined)
      return await this.kernel.run({
        code: job.code,
        timeoutMs,
        workdir,
        env: job.env,
        sink,
        signal,
      });
    const { command, args, input } = program;
    return await runProcess({
      program: { command, args, cwd: workdir, env: this.environment.forProcess(job.env) },
      input,
      timeoutMs,
      userCgroup: this.config.userCgroup,
      pipes: this.pipes,
      sink,
      signal,
      ...(onStart === undefined ? {} : { onStart }),
    });
  }
}
