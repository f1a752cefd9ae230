/**
 * Carries one output of a program into a sink, at the sink's pace; after the program's end, what
 * others still write goes nowhere.
 */
import type { Readable } from "node:stream";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { OutputSink, StreamName } from "./output.ts";

/** More than a pipe and Node in front of it can hold: the rest is of one who still writes. */
const LAST_WORDS_BYTES = 512 * 1024;
/**
 * Each turn of Node's loop reads every pipe that has something in it. One turn may pass until a
 * pipe that was not read is read again; a further one without a byte has found it empty.
 */
const SILENT_TURNS = 3;

export class Pump {
  private readonly name: StreamName;
  private readonly stream: Readable;
  private readonly sink: OutputSink;
  /** Set at the program's end: what is in the pipe then, whatever the sink's pace. */
  private stderrTail: Buffer[] | undefined;
  private lastBytes = 0;
  private isDraining = false;
  /** What the sink has been given and not taken yet. */
  private writing: Promise<void> | undefined;
  /** Resolves when nobody holds the pipe any more. */
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
   * To be called when the program has ended: all that it wrote is in the pipe by then, or has been
   * read. What others add before `linger` resolves is taken too, within the bound. Resolves when
   * the sink has it. The pipe stays open and is read on: who still holds it must not fail at
   * writing.
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
