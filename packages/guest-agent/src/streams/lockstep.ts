/**
 * Sends frames so that a client which listens for one message at a time loses none (the JavaScript
 * SDK drops messages that arrive while it handles one).
 *
 * L1  Each frame is followed by a ping; the next frame is sent only after the pong.
 * L2  Waiting content is merged: text of the same kind into one frame, in order, and frames that
 *     report the same about the same thing.
 * L3  A writer waits while more than `MAX_WAITING_BYTES` are unsent, so a slow client slows down
 *     the program and nothing is lost. The output of a writer that does not wait is cut above a
 *     second bound, with a note.
 * L4  The last frame is repeated until the client closes, for a limited time: a client that missed
 *     it would wait for ever.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { WebSocket } from "ws";
import { withLimit } from "../limits.ts";

export type Frame = Record<string, unknown> & { type: string };

interface Entry {
  frame: Frame;
  /** The parts of `data`, for a text frame. */
  parts?: string[];
  /** The subject of the frame; a second frame about it adds no information. */
  about?: string | undefined;
  bytes: number;
}

const MAX_WAITING_BYTES = 512 * 1024;
const CUT_ABOVE_BYTES = 4 * 1024 * 1024;
const MAX_FRAME_BYTES = 128 * 1024;
/**
 * A client that does not read for this long counts as dead. A shorter silence may be a client that
 * handles its last frame.
 */
const PONG_LIMIT_MS = 120_000;
/** Without frames, a ping at this interval detects that the client has left. */
const KEEP_ALIVE_MS = 30_000;
const REPEAT_EVERY_MS = 300;
const REPEATS = 20;

export class LockstepSender {
  private readonly socket: WebSocket;
  private readonly onSent: () => void;
  private readonly waiting: Entry[] = [];
  private waitingBytes = 0;
  private cutBytes = 0;
  private readonly wakeUps = new Set<() => void>();
  private isEnding = false;
  private readonly pumped: Promise<void>;

  /** `onSent` is called for each frame that the client has received. */
  constructor(socket: WebSocket, onSent: () => void = () => {}) {
    this.socket = socket;
    this.onSent = onSent;
    socket.once("close", () => this.wake());
    this.pumped = this.pump();
  }

  get isOpen(): boolean {
    return this.socket.readyState === this.socket.OPEN;
  }

  /**
   * Resolves when there is room for more, or the client has left. A frame `about` a subject that is
   * already waiting is left out, if no frame without a subject came after it.
   */
  async send(frame: Frame, about?: string): Promise<void> {
    if (about !== undefined && this.waits(about)) return;
    this.add({ frame, about, bytes: JSON.stringify(frame).length });
    await this.room();
  }

  private waits(about: string): boolean {
    for (let at = this.waiting.length - 1; at >= 0; at -= 1) {
      const other = this.waiting[at]?.about;
      if (other === undefined || other === about) return other === about;
    }
    return false;
  }

  /** Like `send`, for text, which may be merged with text of the same kind. */
  async text(type: string, data: string): Promise<void> {
    if (data === "") return;
    const last = this.waiting.at(-1);
    if (
      last?.parts !== undefined &&
      last.frame.type === type &&
      last.bytes < MAX_FRAME_BYTES &&
      this.waitingBytes < CUT_ABOVE_BYTES
    ) {
      last.parts.push(data);
      last.bytes += data.length;
      this.waitingBytes += data.length;
    } else this.add({ frame: { type }, parts: [data], bytes: data.length });
    await this.room();
  }

  /**
   * Sends everything that waits, then repeats this frame until the client closes or the repeats are
   * used up.
   */
  async end(frame: Frame): Promise<void> {
    this.isEnding = true;
    this.wake();
    await this.pumped;
    for (let repeat = 0; repeat < REPEATS && this.isOpen; repeat += 1) {
      await this.deliver(frame);
      await this.closedWithin(REPEAT_EVERY_MS);
    }
    if (!this.isOpen) return;
    this.socket.close(1000);
    await sleep(REPEAT_EVERY_MS);
  }

  private add(entry: Entry): void {
    if (!this.isOpen || this.isEnding) return;
    if (this.waitingBytes >= CUT_ABOVE_BYTES) {
      this.cutBytes += entry.bytes;
      return;
    }
    this.waiting.push(entry);
    this.waitingBytes += entry.bytes;
    this.wake();
  }

  private async pump(): Promise<void> {
    while (this.isOpen) {
      const entry = this.waiting.shift() ?? this.cutNote();
      if (entry !== undefined) {
        const { frame, parts } = entry;
        if (await this.deliver(parts === undefined ? frame : { ...frame, data: parts.join("") }))
          this.onSent();
        this.waitingBytes -= entry.bytes;
        this.wake();
      } else if (this.isEnding) return;
      else if (!(await this.woken(KEEP_ALIVE_MS))) await this.ping();
    }
    this.waiting.length = 0;
    this.waitingBytes = 0;
    this.wake();
  }

  private cutNote(): Entry | undefined {
    if (this.cutBytes === 0) return undefined;
    const data = `\n[${this.cutBytes} more bytes were cut]\n`;
    this.cutBytes = 0;
    return { frame: { type: "stderr" }, parts: [data], bytes: 0 };
  }

  /** Returns false when the client has not received the frame. */
  private async deliver(frame: Frame): Promise<boolean> {
    if (!this.isOpen) return false;
    this.socket.send(JSON.stringify({ ...frame, timestamp: new Date().toISOString() }));
    return await this.ping();
  }

  private async ping(): Promise<boolean> {
    if (!this.isOpen) return false;
    let finish = (_isAlive: boolean) => {};
    const answered = new Promise<boolean>((resolve) => (finish = resolve));
    const onPong = () => finish(true);
    const onClose = () => finish(false);
    this.socket.once("pong", onPong).once("close", onClose);
    this.socket.ping();
    const isAlive = await withLimit(answered, PONG_LIMIT_MS);
    this.socket.off("pong", onPong).off("close", onClose);
    if (isAlive === undefined) this.socket.terminate();
    return isAlive === true;
  }

  private async room(): Promise<void> {
    while (this.isOpen && this.waitingBytes > MAX_WAITING_BYTES) await this.woken(KEEP_ALIVE_MS);
  }

  private async closedWithin(limitMs: number): Promise<void> {
    const deadline = performance.now() + limitMs;
    while (this.isOpen && performance.now() < deadline)
      await this.woken(deadline - performance.now());
  }

  /** Returns false when nothing happened within the limit. */
  private async woken(limitMs: number): Promise<boolean> {
    let wakeUp = () => {};
    const woken = new Promise<true>((resolve) => (wakeUp = () => resolve(true)));
    this.wakeUps.add(wakeUp);
    const happened = await withLimit(woken, Math.max(limitMs, 1));
    this.wakeUps.delete(wakeUp);
    return happened === true;
  }

  private wake(): void {
    for (const wakeUp of this.wakeUps) wakeUp();
  }
}
