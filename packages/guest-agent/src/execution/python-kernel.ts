/**
 * The sandbox's Python: one real IPython kernel, driven through a bridge process (kernel_bridge.py). One cell runs at a time; the others wait in order, so state is what a reader of
 * the code expects.
 *
 * K1  A cell past its time limit, or whose client has left, is interrupted. One that does not stop then takes the kernel with it.
 * K2  Kernel or bridge may be killed by user code at any time. The next cell gets a new kernel, and its stderr says that the state is lost. A cell is never run twice.
 */
import { randomUUID } from "node:crypto";
import { tooMany } from "../errors.ts";
import { whenAborted, withLimit } from "../limits.ts";
import { type LineMessage, LineProcess } from "../line-process.ts";
import type { OutputSink } from "./output.ts";
import { type ExecutionEnd, TIMEOUT_EXIT_CODE } from "./run-process.ts";
import { killGroup } from "./user-process.ts";

export interface CellRequest {
  code: string;
  /** From the start of the cell; waiting for those before it does not count. */
  timeoutMs: number;
  workdir: string;
  env: Record<string, string>;
  sink: OutputSink;
  signal: AbortSignal;
}

export interface KernelOptions {
  python: string;
  helperDir: string;
  userCgroup: string | undefined;
  env: () => Record<string, string>;
  /** An agent before this one had a kernel: whoever uses this one must be told that it is another. */
  isSuccessor: boolean;
}

const MAX_WAITING = 64;
const INTERRUPT_GRACE_MS = 3_000;
/** An emulated guest on a busy machine takes minutes. */
const START_LIMIT_MS = 480_000;
/** The one that is there may be found dead; then a new one. */
const START_ATTEMPTS = 2;
const QUIT_GRACE_MS = 1_000;
const KILLED_EXIT_CODE = 137;
const LOST = "the kernel was started anew: variables, imports and definitions of earlier executions are lost\n";

interface CellEnd {
  ended: LineMessage;
  /** Why it was not let run to its end. */
  isCut: "timeout" | "left" | undefined;
}

const NOT_STARTED: CellEnd = { ended: { type: "done", error: "it could not be started" }, isCut: undefined };

interface Session {
  bridge: LineProcess;
  id: string;
  /** Of the kernel process, once it runs. */
  pid: number | undefined;
}

export class PythonKernel {
  private readonly options: KernelOptions;
  private session: Session | undefined;
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
    return this.session !== undefined;
  }

  /** For /jupyter/sessions. */
  sessions() {
    if (this.session === undefined) return [];
    const state = this.isBusy ? "busy" : "idle";
    const { id, pid } = this.session;
    return [
      { kernel_id: id, name: "python3", execution_state: state, connections: 1, last_activity: this.lastActivity.toISOString(), pid },
    ];
  }

  /** Starts the kernel if it does not run, and runs a trivial cell, so that the next one finds everything loaded. Returns what it said if it did not come to that. */
  async warm(code: string): Promise<string | undefined> {
    let said = "";
    const sink: OutputSink = { write: (name, data) => void (name === "stderr" && (said += String(data))), display: () => {} };
    const end = await this.run({ code, timeoutMs: START_LIMIT_MS, workdir: "/", env: {}, sink, signal: new AbortController().signal });
    return end.exitCode === 0 ? undefined : `exit code ${end.exitCode}: ${said.trim()}`;
  }

  /** Runs one cell after those before it. Throws AgentError 429 when too many wait. */
  async run(request: CellRequest): Promise<ExecutionEnd> {
    if (this.waiting >= MAX_WAITING)
      throw tooMany(`${MAX_WAITING} executions wait for the Python kernel already; try again when some have ended`);
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
    if (this.session === undefined) return false;
    const done = await withLimit(this.session.bridge.request({ type: "reseed" }), 10_000);
    return done?.["ok"] === true;
  }

  private async runNow(request: CellRequest): Promise<ExecutionEnd> {
    let startedAt = performance.now();
    const end = (exitCode: number, timedOut = false) => ({ exitCode, timedOut, durationMs: performance.now() - startedAt });
    if (request.signal.aborted) return end(KILLED_EXIT_CODE);
    this.isBusy = true;
    try {
      const session = await this.readySession(request.sink);
      startedAt = performance.now();
      const { ended, isCut } = session === undefined ? NOT_STARTED : await this.runCell(session, request);
      if (ended["error"] !== undefined) await request.sink.write("stderr", `The Python kernel ended: ${JSON.stringify(ended["error"])}\n`);
      if (isCut === "timeout")
        await request.sink.write("stderr", `\nstopped: the time limit of ${request.timeoutMs / 1000} s was reached\n`);
      if (isCut === "timeout") return end(TIMEOUT_EXIT_CODE, true);
      return end(ended["error"] !== undefined ? KILLED_EXIT_CODE : ended["ok"] === true ? 0 : 1);
    } finally {
      this.isBusy = false;
      this.lastActivity = new Date();
    }
  }

  private async runCell(session: Session, request: CellRequest): Promise<CellEnd> {
    const { code, workdir, env } = request;
    const cutOff = new AbortController();
    const slowReader = whenAborted(cutOff.signal);
    // A reader that is slow holds up the cell, but not its end.
    const onMessage = async (message: LineMessage) => void (await Promise.race([pass(message, request.sink), slowReader.promise]));
    const done = session.bridge.request({ type: "execute", code, workdir, env }, onMessage);
    const aborted = whenAborted(request.signal);
    const first = await withLimit(Promise.race([done, aborted.promise]), request.timeoutMs);
    aborted.unwatch();
    const isCut = first === undefined ? "timeout" : first === "aborted" ? "left" : undefined;
    if (isCut !== undefined) cutOff.abort();
    const ended = first === undefined || first === "aborted" ? await this.interrupt(session, done) : first;
    if (ended["error"] !== undefined) this.drop(session);
    return { ended, isCut };
  }

  private async interrupt(session: Session, done: Promise<LineMessage>): Promise<LineMessage> {
    session.bridge.tell({ type: "interrupt" });
    const ended = await withLimit(done, INTERRUPT_GRACE_MS);
    if (ended !== undefined) return ended;
    this.drop(session);
    return { type: "done", error: "it did not stop when interrupted" };
  }

  /** A session whose kernel runs; starts one where there is none, and says so if state was lost by that (K2). Undefined: none could be started. */
  private async readySession(sink: OutputSink): Promise<Session | undefined> {
    for (let attempt = 0; attempt < START_ATTEMPTS; attempt += 1) {
      const isNew = this.session === undefined;
      const session = this.session ?? this.startSession();
      const answer = await withLimit(session.bridge.request({ type: "ready" }), START_LIMIT_MS);
      if (answer?.["ok"] === true) {
        if (isNew && this.mustTellLoss) await sink.write("stderr", LOST);
        this.mustTellLoss = true;
        return session;
      }
      this.drop(session);
    }
    return undefined;
  }

  private startSession(): Session {
    const { python, helperDir, userCgroup, env } = this.options;
    const session: Session = {
      id: randomUUID(),
      pid: undefined,
      bridge: new LineProcess(python, [`${helperDir}/kernel_bridge.py`, userCgroup ?? ""], {
        env: env(),
        onEvent: (message) => {
          if (message.type === "kernel") session.pid = Number(message["pid"]);
        },
      }),
    };
    this.session = session;
    return session;
  }

  private drop(session: Session): void {
    session.bridge.close();
    killGroup(session.pid, "SIGKILL");
    setTimeout(() => session.bridge.kill(), QUIT_GRACE_MS).unref();
    if (this.session === session) this.session = undefined;
  }
}

function pass(message: LineMessage, sink: OutputSink): void | Promise<void> {
  if (message.type === "stdout" || message.type === "stderr") return sink.write(message.type, String(message["data"]));
  if (message.type === "rich") return sink.display(message["data"] as Record<string, unknown>);
  return undefined;
}
