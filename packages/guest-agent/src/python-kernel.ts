/**
 * The sandbox's Python: one real IPython kernel, driven through a bridge process. One cell runs at a time; the others wait in order, so state is what a reader of the code expects.
 *
 * A cell past its time limit is interrupted; one that does not stop then takes the kernel with it, and the answer says that its state is lost.
 */
import { AgentError } from "./errors.ts";
import { type LineMessage, LineProcess } from "./line-process.ts";
import { BoundedOutput } from "./output.ts";
import { TIMEOUT_EXIT_CODE } from "./run-process.ts";

export interface CellResult {
  stdout: string;
  stderr: string;
  exitCode: number;
  durationMs: number;
  /** The last value or display of each kind: `text`, `png` (base64), `svg`, `html`, `markdown`, `json`. */
  rich: Record<string, unknown>;
}

export interface CellRequest {
  code: string;
  timeoutMs: number;
  workdir: string;
  env: Record<string, string>;
}

const MAX_WAITING = 64;
const INTERRUPT_GRACE_MS = 3_000;
const START_LIMIT_MS = 120_000;

export class PythonKernel {
  private readonly start: () => LineProcess;
  private readonly maxOutputBytes: number;
  private bridge: LineProcess | undefined;
  private waiting = 0;
  private last: Promise<unknown> = Promise.resolve();

  constructor(options: { helperDir: string; userCgroup: string | undefined; maxOutputBytes: number; env: () => Record<string, string> }) {
    this.start = () => new LineProcess("python3", [`${options.helperDir}/kernel_bridge.py`, options.userCgroup ?? ""], options.env());
    this.maxOutputBytes = options.maxOutputBytes;
  }

  get isStarted(): boolean {
    return this.bridge !== undefined;
  }

  /** Starts the kernel if it does not run, and runs a trivial cell, so that the next one finds everything loaded. */
  async warm(): Promise<void> {
    await this.run({ code: "import os, sys, json, random, ssl\npass", timeoutMs: START_LIMIT_MS, workdir: "/", env: {} });
  }

  /** Runs one cell after those before it. Throws AgentError 429 when too many wait. */
  async run(request: CellRequest): Promise<CellResult> {
    if (this.waiting >= MAX_WAITING)
      throw new AgentError(
        429,
        "RESOURCE_LIMIT_ERROR",
        `${MAX_WAITING} executions wait for the Python kernel already; try again when some have ended`,
      );
    this.waiting += 1;
    const turn = this.last.then(() => this.runNow(request));
    this.last = turn.catch(() => {});
    try {
      return await turn;
    } finally {
      this.waiting -= 1;
    }
  }

  /** Gives the kernel new randomness: a process that was warm in a golden snapshot has the same generators in every clone. */
  async reseed(): Promise<boolean> {
    if (this.bridge === undefined) return false;
    const done = await withLimit(this.bridge.request({ type: "reseed" }).done, 10_000);
    return done?.["ok"] === true;
  }

  private async runNow(request: CellRequest): Promise<CellResult> {
    const bridge = this.ensureBridge();
    const stdout = new BoundedOutput(this.maxOutputBytes);
    const stderr = new BoundedOutput(this.maxOutputBytes);
    const rich: Record<string, unknown> = {};
    const startedAt = performance.now();
    const { done } = bridge.request({ type: "execute", code: request.code, workdir: request.workdir, env: request.env }, (message) => {
      if (message.type === "stdout") stdout.add(String(message["data"]));
      if (message.type === "stderr") stderr.add(String(message["data"]));
      if (message.type === "rich") Object.assign(rich, message["data"]);
    });
    let ended = await withLimit(done, request.timeoutMs);
    const timedOut = ended === undefined;
    if (ended === undefined) ended = await this.interrupt(bridge, done, stderr, request.timeoutMs);
    if (ended?.["error"] !== undefined) {
      stderr.add(
        `The Python kernel ended (${JSON.stringify(ended["error"])}); its variables are lost and a new one starts with the next execution.\n`,
      );
      this.drop(bridge);
    }
    const exitCode = timedOut ? TIMEOUT_EXIT_CODE : ended?.["ok"] === true ? 0 : 1;
    return { stdout: stdout.toString(), stderr: stderr.toString(), exitCode, durationMs: performance.now() - startedAt, rich };
  }

  private async interrupt(bridge: LineProcess, done: Promise<LineMessage>, stderr: BoundedOutput, timeoutMs: number): Promise<LineMessage> {
    bridge.tell({ type: "interrupt" });
    const ended = await withLimit(done, INTERRUPT_GRACE_MS);
    stderr.add(`\nstopped: the time limit of ${timeoutMs / 1000} s was reached\n`);
    if (ended !== undefined) return ended;
    this.drop(bridge);
    return { type: "done", error: "it did not stop when interrupted" };
  }

  private ensureBridge(): LineProcess {
    if (this.bridge !== undefined) return this.bridge;
    const bridge = this.start();
    this.bridge = bridge;
    void bridge.ended.then(() => {
      if (this.bridge === bridge) this.bridge = undefined;
    });
    return bridge;
  }

  private drop(bridge: LineProcess): void {
    bridge.tell({ type: "quit" });
    setTimeout(() => bridge.kill(), 1_000).unref();
    if (this.bridge === bridge) this.bridge = undefined;
  }
}

async function withLimit<T>(promise: Promise<T>, limitMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), limitMs);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}
