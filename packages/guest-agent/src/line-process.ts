/**
 * A resident helper that speaks one JSON object per line. Requests carry an id; every message with
 * that id goes to its listener until `done`.
 *
 * A listener may take its time: the helper's output is not read on before it is done, so a slow
 * reader in the end holds up the program that writes.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { withLimit } from "./limits.ts";

export type LineMessage = Record<string, unknown> & { id?: number; type: string };
/** The error of requests that their helper did not live to answer. */
export const HELPER_ENDED = "the helper ended";
/**
 * How long what a helper said before its end is still waited for: a child of its own may hold the
 * pipe open.
 */
const LAST_WORDS_MS = 1_000;
type Listener = (message: LineMessage) => void | Promise<void>;

export class LineProcess {
  private readonly child: ChildProcess;
  private readonly listeners = new Map<number, Listener>();
  private readonly onEvent: Listener;
  private nextId = 1;
  private hasEnded = false;
  /**
   * Resolves when the helper has ended, for whatever reason, and everything that it has said is
   * passed on.
   */
  readonly ended: Promise<void>;

  /** `onEvent` gets the messages that belong to no request. */
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
   * Sends a request; `onMessage` gets every message up to and including `done`. Resolves with the
   * `done` message, which has an `error` when the helper ended before.
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

  /** Sends what expects no answer. */
  tell(body: Record<string, unknown>): void {
    this.tellLine(JSON.stringify(body));
  }

  /** For a helper that reads plain lines. */
  tellLine(line: string): void {
    if (!this.hasEnded) this.child.stdin?.write(`${line}\n`);
  }

  /** Says that nothing more comes; a helper ends by that. */
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
      // Its end is reported by `ended`.
    }
  }

  private async receive(line: string): Promise<void> {
    let message: LineMessage;
    try {
      message = JSON.parse(line) as LineMessage;
    } catch {
      return; // A helper that was killed in the middle of a line.
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

/**
 * A helper that is started when it is first needed, and again when it has ended: user code may kill
 * it.
 */
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
