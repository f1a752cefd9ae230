/** Where an execution's output goes: collected for one answer, or on to a stream. */
import type { Budget } from "../budget.ts";

export type StreamName = "stdout" | "stderr";
/** One display of a cell: `png` (base64), `html`, `json`, `svg`, `markdown`, `dataframe`, `text`, each if the kernel gave it. */
export type Display = Record<string, unknown>;

export interface OutputSink {
  /** The writer waits for what is returned: that is how a slow reader holds up the program. */
  write(name: StreamName, data: Buffer | string): void | Promise<void>;
  display(display: Display): void | Promise<void>;
}

/** Collects text up to a limit, which may be its own or that of all: user code that prints without end must not take the agent's memory. */
export class BoundedText {
  private readonly limitBytes: number;
  private readonly budget: Budget;
  private readonly chunks: Buffer[] = [];
  private sizeBytes = 0;
  private cutBytes = 0;

  constructor(limitBytes: number, budget: Budget) {
    this.limitBytes = limitBytes;
    this.budget = budget;
  }

  add(data: Buffer | string): void {
    const chunk = typeof data === "string" ? Buffer.from(data) : data;
    const room = this.cutBytes > 0 ? 0 : this.budget.takeUpTo(Math.min(chunk.length, this.limitBytes - this.sizeBytes));
    this.cutBytes += chunk.length - room;
    if (room === 0) return;
    this.chunks.push(room === chunk.length ? chunk : Buffer.from(chunk.subarray(0, room)));
    this.sizeBytes += room;
  }

  /** What was collected, with a note of what was cut. Gives back its part of the budget. */
  take(): string {
    const text = Buffer.concat(this.chunks).toString("utf8");
    this.budget.give(this.sizeBytes);
    this.sizeBytes = 0;
    this.chunks.length = 0;
    return this.cutBytes === 0 ? text : `${text}\n[${this.cutBytes} more bytes were cut]\n`;
  }
}

/** Keeps the newest output: of a program that runs for hours, its end is what is looked for. */
export class TailText {
  private readonly limitBytes: number;
  private readonly chunks: Buffer[] = [];
  private sizeBytes = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  add(data: Buffer | string): void {
    const chunk = typeof data === "string" ? Buffer.from(data) : data;
    this.chunks.push(chunk.length > this.limitBytes ? Buffer.from(chunk.subarray(-this.limitBytes)) : chunk);
    this.sizeBytes += Math.min(chunk.length, this.limitBytes);
    while (this.sizeBytes - (this.chunks[0]?.length ?? 0) >= this.limitBytes) this.sizeBytes -= this.chunks.shift()?.length ?? 0;
  }

  toString(): string {
    return Buffer.concat(this.chunks).subarray(-this.limitBytes).toString("utf8");
  }
}

/** For an execution whose whole output is one answer. `close` must be called at its end. */
export class CollectedOutput implements OutputSink {
  private readonly texts: Record<StreamName, BoundedText>;
  private readonly budget: Budget;
  private readonly limitBytes: number;
  private displayBytes = 0;
  private cutDisplays = 0;
  private readonly displays: Display[] = [];

  constructor(limitBytes: number, budget: Budget) {
    this.limitBytes = limitBytes;
    this.budget = budget;
    this.texts = { stdout: new BoundedText(limitBytes, budget), stderr: new BoundedText(limitBytes, budget) };
  }

  write(name: StreamName, data: Buffer | string): void {
    this.texts[name].add(data);
  }

  display(display: Display): void {
    const bytes = JSON.stringify(display).length;
    if (this.displayBytes + bytes > this.limitBytes || !this.budget.take(bytes)) {
      this.cutDisplays += 1;
      return;
    }
    this.displayBytes += bytes;
    this.displays.push(display);
  }

  close(): { stdout: string; stderr: string; displays: Display[] } {
    if (this.cutDisplays > 0) this.write("stderr", `\n[${this.cutDisplays} displays were too large and were cut]\n`);
    this.budget.give(this.displayBytes);
    this.displayBytes = 0;
    return { stdout: this.texts.stdout.take(), stderr: this.texts.stderr.take(), displays: this.displays };
  }
}
