/**
 * The sandbox's Python: one real IPython kernel, driven through a bridge process
 * (guest/kernel_bridge.py). One cell runs at a time and the others wait in order, so cells see each
 * other's state in the order of the calls.
 *
 * K1  A cell past its time limit, or whose client has left, is interrupted. If Python cannot
 *     interrupt the cell, the kernel ends too, but nothing that earlier cells have started.
 * K2  User code may kill the kernel or the bridge at any time. The next cell gets a new kernel, and
 *     its stderr reports that the state is lost. A cell is never run twice.
 * K3  A cell succeeds only when the kernel reports success, never by the absence of an error.
 */
import { tooMany } from "../errors.ts";
import { whenAborted, withLimit } from "../limits.ts";
import { HELPER_ENDED, type LineMessage, LineProcess } from "../line-process.ts";
import { randomId } from "../random.ts";
import type { Display, OutputSink } from "./output.ts";
import { type ExecutionEnd, TIMEOUT_EXIT_CODE } from "./run-process.ts";

export interface CellRequest {
  code: string;
  /**
   * Counted from the begin of the cell: waiting for earlier cells does not count. Undefined: no
   * limit.
   */
  timeoutMs: number | undefined;
  workdir: string;
  /** Variables of this call only. */
  env: Record<string, string>;
  sink: OutputSink;
  signal: AbortSignal;
}

export interface KernelOptions {
  python: string;
  helperDir: string;
  userCgroup: string | undefined;
  /** The variables of a program that has none of its own. */
  env: () => Record<string, string>;
  /** An earlier agent had a kernel: the first cell must report that its state is lost. */
  isSuccessor: boolean;
}

const MAX_WAITING = 64;
/** Limit until a cell begins, in which time a kernel may have to start twice. */
const BEGIN_LIMIT_MS = 960_000;
/**
 * Longer than the bridge's own limit (kernel_interrupt.py), after which the bridge has ended the
 * kernel.
 */
const STOP_LIMIT_MS = 150_000;
const QUICK_LIMIT_MS = 10_000;
const KILLED_EXIT_CODE = 137;
const LOST =
  "the kernel was started anew: variables, imports and definitions of earlier executions are lost\n";
/** Variables that an interpreter and its loader read only when they start. */
const START_ONLY = /^(PYTHON(?!PATH$)|LD_|MALLOC_|GLIBC_TUNABLES$)/;

export class PythonKernel {
  private readonly options: KernelOptions;
  private bridge: LineProcess | undefined;
  private pid: number | undefined;
  private id = randomId(16);
  private mustTellLoss: boolean;
  private waiting = 0;
  private isBusy = false;
  private lastActivity = new Date();
  private last: Promise<unknown> = Promise.resolve();

  constructor(options: KernelOptions) {
    this.options = options;
    this.mustTellLoss = options.isSuccessor;
  }

  get isStarted(): boolean {
    return this.bridge !== undefined;
  }

  /** The response of /jupyter/sessions. */
  sessions() {
    if (this.bridge === undefined) return [];
    const state = this.isBusy ? "busy" : "idle";
    const { id, pid } = this;
    return [
      {
        kernel_id: id,
        name: "python3",
        execution_state: state,
        connections: 1,
        last_activity: this.lastActivity.toISOString(),
        pid,
      },
    ];
  }

  /**
   * Starts the kernel if it does not run, and runs a trivial cell, so that the next cell finds
   * everything loaded. Returns the reason on failure.
   */
  async warm(code: string): Promise<string | undefined> {
    let said = "";
    const write: OutputSink["write"] = (name, data) =>
      void (name === "stderr" && (said += String(data)));
    const sink: OutputSink = { write, display: () => {}, clear: () => {} };
    const end = await this.run({
      code,
      timeoutMs: undefined,
      workdir: "/",
      env: {},
      sink,
      signal: new AbortController().signal,
    });
    return end.exitCode === 0 ? undefined : `exit code ${end.exitCode}: ${said.trim()}`;
  }

  /** Runs one cell after all earlier ones. Throws AgentError 429 when too many wait. */
  async run(request: CellRequest): Promise<ExecutionEnd> {
    if (this.waiting >= MAX_WAITING)
      throw tooMany(
        `${MAX_WAITING} executions wait for the Python kernel already; try again when some have ended`,
      );
    this.waiting += 1;
    try {
      return await this.inTurn(() => this.runNow(request));
    } finally {
      this.waiting -= 1;
    }
  }

  /**
   * Gives a kernel from a golden snapshot to this sandbox. No user code has run in it. The kernel
   * gets new randomness, since all kernels of that snapshot have the same generators. If it should
   * have started with other variables, it is stopped and the first cell starts another.
   */
  async becomeOwn(): Promise<boolean> {
    this.id = randomId(16);
    const { bridge } = this;
    if (bridge === undefined) return false;
    const isTooLate = Object.keys(this.options.env()).some((name) => START_ONLY.test(name));
    const done = await this.inTurn(() =>
      withLimit(bridge.request({ type: isTooLate ? "stop" : "reseed" }), QUICK_LIMIT_MS),
    );
    if (isTooLate) this.mustTellLoss = false;
    return done?.["ok"] === true;
  }

  private async inTurn<T>(run: () => Promise<T>): Promise<T> {
    const turn = this.last.then(run);
    this.last = turn.catch(() => {});
    return await turn;
  }

  private async runNow(request: CellRequest): Promise<ExecutionEnd> {
    if (request.signal.aborted)
      return { exitCode: KILLED_EXIT_CODE, timedOut: false, durationMs: 0 };
    this.isBusy = true;
    try {
      return await new CellRun(
        this.runningBridge(),
        request,
        this.options.env(),
        this.tellLoss,
      ).run();
    } finally {
      this.isBusy = false;
      this.lastActivity = new Date();
    }
  }

  /** The message at the begin of a cell in a new kernel (K2). */
  private readonly tellLoss = (isNewKernel: boolean): string => {
    const loss = isNewKernel && this.mustTellLoss ? LOST : "";
    this.mustTellLoss = true;
    return loss;
  };

  private runningBridge(): LineProcess {
    if (this.bridge?.isRunning === true) return this.bridge;
    const { python, helperDir, userCgroup } = this.options;
    this.bridge = new LineProcess(
      python,
      ["-Es", `${helperDir}/kernel_bridge.py`, userCgroup ?? ""],
      {
        onEvent: (message) => {
          if (message.type === "kernel") this.pid = Number(message["pid"]);
        },
      },
    );
    return this.bridge;
  }
}

/** The run of one cell through the bridge. */
class CellRun {
  private readonly bridge: LineProcess;
  private readonly request: CellRequest;
  private readonly variables: Record<string, string>;
  private readonly tellLoss: (isNewKernel: boolean) => string;
  /** Aborted by an interrupt: a slow reader delays the cell, but not its end. */
  private readonly cutOff = new AbortController();
  private readonly isCutOff = whenAborted(this.cutOff.signal).promise;
  private startedAt = performance.now();
  private markBegun = () => {};
  private readonly begun = new Promise<void>((resolve) => (this.markBegun = resolve));

  constructor(
    bridge: LineProcess,
    request: CellRequest,
    variables: Record<string, string>,
    tellLoss: (isNewKernel: boolean) => string,
  ) {
    this.bridge = bridge;
    this.request = request;
    this.variables = variables;
    this.tellLoss = tellLoss;
  }

  async run(): Promise<ExecutionEnd> {
    const { code, workdir, env, signal } = this.request;
    const aborted = whenAborted(signal);
    const done = this.bridge.request(
      { type: "execute", code, workdir, sandbox: this.variables, call: env },
      this.onMessage,
    );
    const first = await Promise.race([done, aborted.promise, this.timedOut(done)]);
    aborted.unwatch();
    if (typeof first !== "string") return await this.end(first, false);
    this.cutOff.abort();
    return await this.end(await this.interrupt(done), first === "timeout");
  }

  /** Resolves at the time limit; never for a cell without one. */
  private async timedOut(done: Promise<LineMessage>): Promise<"timeout" | "not begun"> {
    const hasBegun = await withLimit(
      Promise.race([this.begun, done]).then(() => true),
      BEGIN_LIMIT_MS,
    );
    if (hasBegun !== true) return "not begun";
    const { timeoutMs } = this.request;
    if (timeoutMs === undefined) return await new Promise<never>(() => {});
    const ended = await withLimit(
      done,
      Math.max(0, this.startedAt + timeoutMs - performance.now()),
    );
    return ended === undefined ? "timeout" : await new Promise<never>(() => {});
  }

  private async interrupt(done: Promise<LineMessage>): Promise<LineMessage> {
    this.bridge.tell({ type: "interrupt" });
    const ended = await withLimit(done, STOP_LIMIT_MS);
    if (ended !== undefined) return ended;
    this.bridge.kill();
    return { type: "done", error: "it did not stop when interrupted" };
  }

  private readonly onMessage = async (message: LineMessage): Promise<void> => {
    if (message.type === "begin") {
      this.startedAt = performance.now();
      this.markBegun();
    }
    await Promise.race([this.pass(message), this.isCutOff]);
  };

  private pass(message: LineMessage): void | Promise<void> {
    const { sink } = this.request;
    if (message.type === "stdout" || message.type === "stderr")
      return sink.write(message.type, String(message["data"]));
    if (message.type === "rich") return sink.display(displayOf(message));
    if (message.type === "clear") return sink.clear(message["wait"] === true);
    const loss = message.type === "begin" ? this.tellLoss(message["isNewKernel"] === true) : "";
    return loss === "" ? undefined : sink.write("stderr", loss);
  }

  private async end(done: LineMessage, timedOut: boolean): Promise<ExecutionEnd> {
    const { sink, timeoutMs } = this.request;
    const durationMs = performance.now() - this.startedAt;
    if (done["error"] !== undefined)
      await sink.write("stderr", `The Python kernel ended: ${JSON.stringify(done["error"])}\n`);
    if (timedOut)
      await sink.write(
        "stderr",
        `\nstopped: the time limit of ${(timeoutMs ?? 0) / 1000} s was reached\n`,
      );
    const isBridgeGone = done["error"] === HELPER_ENDED || done["exitCode"] === undefined;
    const exitCode =
      done["ok"] === true ? 0 : isBridgeGone ? KILLED_EXIT_CODE : Number(done["exitCode"]);
    return { exitCode: timedOut ? TIMEOUT_EXIT_CODE : exitCode, timedOut, durationMs };
  }
}

function displayOf(message: LineMessage): Display {
  const { data, displayId, isUpdate } = message;
  return {
    data: data as Display["data"],
    displayId: typeof displayId === "string" ? displayId : undefined,
    isUpdate: isUpdate === true,
  };
}
