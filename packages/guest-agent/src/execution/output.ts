/**
 * The destinations of an execution's output: collected for one response, or written to a stream.
 */
import type { Budget } from "../budget.ts";

export type StreamName = "stdout" | "stderr";

/** One display that a cell has produced. */
export interface Display {
  /**
   * Content by kind: `png` (base64), `html`, `json`, `svg`, `markdown`, `dataframe`, `text`, or the
   * MIME type's own name.
   */
  data: Record<string, unknown>;
  /** Set if the display may be updated later. */
  displayId: string | undefined;
  /** The display replaces those with the same id. */
  isUpdate: boolean;
}

export interface OutputSink {
  /** The writer awaits the returned promise: this is how a slow reader slows the program down. */
  write(name: StreamName, data: Buffer | string): void | Promise<void>;
  display(display: Display): void | Promise<void>;
  /** Discards the displays so far: at once, or (`wait`) when the next display arrives. */
  clear(wait: boolean): void | Promise<void>;
}

/**
 * Collects text up to its own limit and the shared budget: user code that prints without end must
 * not exhaust the agent's memory.
 */
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
    const room =
      this.cutBytes > 0
        ? 0
        : this.budget.takeUpTo(Math.min(chunk.length, this.limitBytes - this.sizeBytes));
    this.cutBytes += chunk.length - room;
    if (room === 0) return;
    this.chunks.push(room === chunk.length ? chunk : Buffer.from(chunk.subarray(0, room)));
    this.sizeBytes += room;
  }

  /**
   * Returns the collected text, with a note about the cut bytes. Gives its part of the budget back.
   */
  take(): string {
    const text = Buffer.concat(this.chunks).toString("utf8");
    this.budget.give(this.sizeBytes);
    this.sizeBytes = 0;
    this.chunks.length = 0;
    return this.cutBytes === 0 ? text : `${text}\n[${this.cutBytes} more bytes were cut]\n`;
  }
}

/** Keeps the newest output: for a program that runs for hours, the end matters most. */
export class TailText {
  private readonly limitBytes: number;
  private readonly chunks: Buffer[] = [];
  private sizeBytes = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  add(data: Buffer | string): void {
    const chunk = typeof data === "string" ? Buffer.from(data) : data;
    this.chunks.push(
      chunk.length > this.limitBytes ? Buffer.from(chunk.subarray(-this.limitBytes)) : chunk,
    );
    this.sizeBytes += Math.min(chunk.length, this.limitBytes);
    while (this.sizeBytes - (this.chunks[0]?.length ?? 0) >= this.limitBytes)
      this.sizeBytes -= this.chunks.shift()?.length ?? 0;
  }

  toString(): string {
    return Buffer.concat(this.chunks).subarray(-this.limitBytes).toString("utf8");
  }
}

/** Collects the whole output of an execution for one response. Call `close` at the end. */
export class CollectedOutput implements OutputSink {
  private readonly texts: Record<StreamName, BoundedText>;
  private readonly budget: Budget;
  private readonly limitBytes: number;
  private displayBytes = 0;
  private cutDisplays = 0;
  private mustClear = false;
  private displays: (Display & { bytes: number })[] = [];

  constructor(limitBytes: number, budget: Budget) {
    this.limitBytes = limitBytes;
    this.budget = budget;
    this.texts = {
      stdout: new BoundedText(limitBytes, budget),
      stderr: new BoundedText(limitBytes, budget),
    };
  }

  write(name: StreamName, data: Buffer | string): void {
    this.texts[name].add(data);
  }

  display(display: Display): void {
    if (this.mustClear) this.clear(false);
    const old = display.isUpdate
      ? this.displays.filter(({ displayId }) => displayId === display.displayId)
      : [];
    if (old.length === 0) this.keep(display);
    for (const one of old) this.replace(one, display);
  }

  clear(wait: boolean): void {
    this.mustClear = wait;
    if (wait) return;
    this.displays = [];
    this.give(this.displayBytes);
  }

  private keep(display: Display): void {
    const bytes = this.take(display);
    if (bytes !== undefined) this.displays.push({ ...display, bytes });
  }

  private replace(old: Display & { bytes: number }, { data }: Display): void {
    this.give(old.bytes);
    const bytes = this.take({ ...old, data });
    if (bytes === undefined) this.displays = this.displays.filter((one) => one !== old);
    else Object.assign(old, { data, bytes });
  }

  /** Returns undefined when there is no room for the display. */
  private take({ data }: Display): number | undefined {
    const bytes = JSON.stringify(data).length;
    if (this.displayBytes + bytes > this.limitBytes || !this.budget.take(bytes)) {
      this.cutDisplays += 1;
      return undefined;
    }
    this.displayBytes += bytes;
    return bytes;
  }

  private give(bytes: number): void {
    this.displayBytes -= bytes;
    this.budget.give(bytes);
  }

  close(): { stdout: string; stderr: string; displays: Display["data"][] } {
    if (this.cutDisplays > 0)
      this.write("stderr", `\n[${this.cutDisplays} displays were too large and were cut]\n`);
    this.give(this.displayBytes);
    return {
      stdout: this.texts.stdout.take(),
      stderr: this.texts.stderr.take(),
      displays: this.displays.map(({ data }) => data),
    };
  }
}
