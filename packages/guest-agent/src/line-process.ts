/** A resident helper that speaks one JSON object per line. Requests carry an id; every message with that id goes to its listener until `done`. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";

export type LineMessage = Record<string, unknown> & { id?: number; type: string };

export class LineProcess {
  private readonly child: ChildProcess;
  private readonly listeners = new Map<number, (message: LineMessage) => void>();
  private nextId = 1;
  /** Resolves when the helper has ended, for whatever reason. */
  readonly ended: Promise<void>;

  constructor(command: string, args: string[], env?: Record<string, string>) {
    this.child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"], env: env ?? process.env });
    this.child.stdin?.on("error", () => {});
    if (this.child.stdout !== null) createInterface({ input: this.child.stdout }).on("line", (line) => this.receive(line));
    this.ended = new Promise((resolve) => {
      this.child.once("error", () => resolve());
      this.child.once("exit", () => resolve());
    });
    void this.ended.then(() => {
      for (const listener of this.listeners.values()) listener({ type: "done", error: "the helper ended" });
      this.listeners.clear();
    });
  }

  /** Sends a request; `onMessage` gets every message up to and including `done`. Resolves with the `done` message. */
  request(body: Record<string, unknown>, onMessage: (message: LineMessage) => void = () => {}): { id: number; done: Promise<LineMessage> } {
    const id = this.nextId++;
    const done = new Promise<LineMessage>((resolve) => {
      this.listeners.set(id, (message) => {
        onMessage(message);
        if (message.type !== "done") return;
        this.listeners.delete(id);
        resolve(message);
      });
    });
    this.tell({ ...body, id });
    return { id, done };
  }

  /** Sends what expects no answer. */
  tell(body: Record<string, unknown>): void {
    this.child.stdin?.write(`${JSON.stringify(body)}\n`);
  }

  kill(): void {
    this.child.kill("SIGKILL");
  }

  private receive(line: string): void {
    const message = JSON.parse(line) as LineMessage;
    if (message.id !== undefined) this.listeners.get(message.id)?.(message);
  }
}
