/**
 * A resident helper process that speaks one JSON object per line. Requests carry an id; every
 * message with that id goes to the listener of the request until `done`.
 *
 * A listener may be slow: the helper's output is not read further until the listener is done, so a
 * slow reader in the end slows down the program that writes.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { withLimit } from "./limits.ts";

export type LineMessage = Record<string, unknown> & { id?: number; type: string };
/** The error of requests whose helper ended before it replied. */
export const HELPER_ENDED = "the helper ended";
/**
 * How long to wait, after a helper's end, for its remaining output: a child of the helper may hold
 * the pipe open.
 */
const LAST_WORDS_MS = 1_000;
type Listener = (message: LineMessage) => void | Promise<void>;

export class LineProcess {
  private readonly child: ChildProcess;
  private readonly listeners = new Map<number, Listener>();
  private readonly onEvent: Listener;
  private nextId = 1;
  private hasEnded = false;
  /** Resolves when the helper has ended, for any reason, and all its output has been passed on. */
  readonly ended: Promise<void>;

  /** `onEvent` gets the messages without a request. */
  constructor(
    command: string,
    args: string[],
    options: { env?: Record<string, string>; onEvent?: Listener } = {},
  ) {
    this.child = spawn(command, args, {
      stdio: ["pipe", "pipe", "inherit"],
      env: options.env ?? process.env,
    });
    this.onEvent = options.onEvent ?? (() => {});
    this.child.stdin?.on("error", () => {});
    const exited = new Promise<void>((resolve) => {
      this.child.once("error", () => resolve());
      this.child.once("exit", () => resolve());
    });
    const read = this.readLines();
    this.ended = exited.then(() => withLimit(read, LAST_WORDS_MS)).then(() => this.end());
  }

  get isRunning(): boolean {
    return !this.hasEnded;
  }

  /**
   * Sends a request; `onMessage` gets every message before `done`. Resolves with the `done`
   * message, which has an `error` when the helper ended first.
   */
  request(body: Record<string, unknown>, onMessage: Listener = () => {}): Promise<LineMessage> {
    if (this.hasEnded) return Promise.resolve({ type: "done", error: HELPER_ENDED });
    const id = this.nextId++;
    const done = new Promise<LineMessage>((resolve) => {
      this.listeners.set(id, async (message) => {
        if (message.type === "done") {
          this.listeners.delete(id);
          resolve(message);
        } else await onMessage(message);
      });
    });
    this.tell({ ...body, id });
    return done;
  }

  /** Sends a message without a reply. */
  tell(body: Record<string, unknown>): void {
    this.tellLine(JSON.stringify(body));
  }

  /** Sends a plain line. */
  tellLine(line: string): void {
    if (!this.hasEnded) this.child.stdin?.write(`${line}\n`);
  }

  /** Closes the helper's input, which ends the helper. */
  close(): void {
    this.child.stdin?.end();
  }

  kill(): void {
    this.child.kill("SIGKILL");
  }

  private async readLines(): Promise<void> {
    let parts: string[] = [];
    try {
      for await (const chunk of this.child.stdout?.setEncoding("utf8") ?? []) {
        const [first = "", ...others] = (chunk as string).split("\n");
        parts.push(first);
        for (const next of others) {
          await this.receive(parts.join(""));
          parts = [next];
        }
      }
    } catch {
      // `ended` reports the end of the helper.
    }
  }

  private async receive(line: string): Promise<void> {
    let message: LineMessage;
    try {
      message = JSON.parse(line) as LineMessage;
    } catch {
      return; // The helper was killed in the middle of a line.
    }
    await (message.id === undefined ? this.onEvent : this.listeners.get(message.id))?.(message);
  }

  private end(): void {
    this.hasEnded = true;
    for (const listener of this.listeners.values())
      void listener({ type: "done", error: HELPER_ENDED });
    this.listeners.clear();
  }
}

/** A helper that is started again when it has ended: user code may kill it. */
export class RestartingHelper {
  private readonly start: () => LineProcess;
  private process: LineProcess;

  constructor(start: () => LineProcess) {
    this.start = start;
    this.process = start();
  }

  get current(): LineProcess {
    if (!this.process.isRunning) this.process = this.start();
    return this.process;
  }
}
