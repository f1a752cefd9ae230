/**
 * Copies one output stream of a program into a sink, at the sink's pace. After the end of the
 * program, what other processes still write is dropped.
 */
import type { Readable } from "node:stream";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { OutputSink, StreamName } from "./output.ts";

/**
 * More than a pipe and Node's buffer can hold: anything beyond comes from a process that still
 * writes.
 */
const LAST_WORDS_BYTES = 512 * 1024;
/**
 * Each turn of Node's event loop reads every pipe that has data. One turn may pass before a
 * paused pipe is read again; another turn without a byte shows that the pipe is empty.
 */
const SILENT_TURNS = 3;

export class Pump {
  private readonly name: StreamName;
  private readonly stream: Readable;
  private readonly sink: OutputSink;
  /**
   * Set at the end of the program: the contents of the pipe at that time, read regardless of the
   * sink's pace.
   */
  private stderrTail: Buffer[] | undefined;
  private lastBytes = 0;
  private isDraining = false;
  /** The write that the sink has not finished. */
  private writing: Promise<void> | undefined;
  /** Resolves when no process holds the pipe any more. */
  readonly ended: Promise<void>;

  constructor(name: StreamName, stream: Readable, sink: OutputSink) {
    this.name = name;
    this.stream = stream;
    this.sink = sink;
    stream.on("error", () => {});
    this.ended = new Promise((resolve) => stream.once("close", resolve));
    stream.on("data", (chunk: Buffer) => this.receive(chunk));
  }

  /**
   * Call this when the program has ended: all its output is in the pipe, or has been read. Output
   * that other processes add before `linger` resolves is included, up to the bound. Resolves when
   * the sink has everything. The pipe stays open and is still read: a process that holds it must
   * not fail on a write.
   */
  async finish(linger: Promise<unknown>): Promise<void> {
    const words: Buffer[] = [];
    this.stderrTail = words;
    this.stream.resume();
    await linger;
    for (let silent = 0; silent < SILENT_TURNS && !this.isDraining && !this.stream.destroyed;) {
      const seenBytes = this.lastBytes;
      await nextTurn();
      silent = this.lastBytes === seenBytes ? silent + 1 : 0;
    }
    this.isDraining = true;
    await this.writing;
    for (const chunk of words.splice(0)) await this.sink.write(this.name, chunk);
  }

  private receive(chunk: Buffer): void {
    if (this.isDraining) return;
    if (this.stderrTail !== undefined) {
      this.stderrTail.push(chunk);
      this.lastBytes += chunk.length;
      this.isDraining = this.lastBytes > LAST_WORDS_BYTES;
      return;
    }
    const written = this.sink.write(this.name, chunk);
    if (written === undefined) return;
    this.stream.pause();
    this.writing = written.then(() => this.goOn());
  }

  private goOn(): void {
    this.writing = undefined;
    this.stream.resume();
  }
}
