/**
 * Slots for the starts of one host. A start keeps a processor and the disk busy: many at once take
 * as long as one after the other, and all of them end late.
 *
 * SS1  First come, first served, and never more at once than there are slots.
 * SS2  A wait ends with its signal, at its deadline, or when the host closes, and nothing begins
 *      then. A start whose signal has aborted does not begin even if its slot was free.
 * SS3  A start that cannot begin before its deadline is refused when that is known, from the
 *      durations of recent starts: when it arrives, and whenever another start has ended.
 */
import { MAX_STARTS_WAITING } from "@torpor/contracts";

export interface GrantedSlot {
  kind: "granted";
  /** Must be called, however the start ends. */
  release: () => void;
}

export type StartSlot =
  | GrantedSlot
  | { kind: "cancelled" }
  /** The deadline of the start has passed. */
  | { kind: "late" }
  /** The next process runs the operation. */
  | { kind: "closing" }
  /** The start could begin only in `waitMs`, after its deadline; or too many wait. */
  | { kind: "hopeless"; waitMs: number };

export interface SlotRequest {
  signal: AbortSignal;
  /** Unix time in ms; Infinity: no deadline. */
  deadlineAtMs: number;
}

export interface StartLoad {
  startsAtOnce: number;
  startsRunning: number;
  startsWaiting: number;
}

interface Waiting {
  deadlineAtMs: number;
  end: (slot: StartSlot) => void;
}

/** Newest starts, whose median duration predicts the next ones. */
const DURATIONS_KEPT = 16;
/** Longest delay of a timer. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export class StartSlots {
  private readonly startsAtOnce: number;
  private readonly maxWaiting: number;
  private readonly running = new Set<{ beganAtMs: number }>();
  private readonly waiting = new Set<Waiting>();
  private readonly durationsMs: number[] = [];
  private isClosed = false;

  constructor(startsAtOnce: number, maxWaiting = MAX_STARTS_WAITING) {
    this.startsAtOnce = startsAtOnce;
    this.maxWaiting = maxWaiting;
  }

  get load(): StartLoad {
    return {
      startsAtOnce: this.startsAtOnce,
      startsRunning: this.running.size,
      startsWaiting: this.waiting.size,
    };
  }

  async take({ signal, deadlineAtMs }: SlotRequest): Promise<StartSlot> {
    if (this.isClosed) return { kind: "closing" };
    if (signal.aborted) return { kind: "cancelled" };
    if (deadlineAtMs <= Date.now()) return { kind: "late" };
    const ended = Promise.withResolvers<StartSlot>();
    const one: Waiting = {
      deadlineAtMs,
      end: (slot) => {
        this.waiting.delete(one);
        ended.resolve(slot);
      },
    };
    const cancel = () => one.end({ kind: "cancelled" });
    signal.addEventListener("abort", cancel, { once: true });
    const leftMs = Math.min(deadlineAtMs - Date.now(), MAX_TIMER_MS);
    const timer = setTimeout(() => one.end({ kind: "late" }), leftMs);
    this.waiting.add(one);
    this.goOn();
    const slot = await ended.promise;
    clearTimeout(timer);
    signal.removeEventListener("abort", cancel);
    if (slot.kind !== "granted" || !signal.aborted) return slot;
    // The cancel came between the grant and here.
    slot.release();
    return { kind: "cancelled" };
  }

  /** Grants no more slots. Running starts are not awaited. */
  close(): void {
    this.isClosed = true;
    for (const { end } of this.waiting) end({ kind: "closing" });
  }

  private goOn(): void {
    for (const one of this.waiting) {
      if (this.running.size >= this.startsAtOnce) break;
      // In a busy process the timer of the deadline is late itself.
      if (one.deadlineAtMs <= Date.now()) one.end({ kind: "late" });
      else one.end({ kind: "granted", release: this.begin() });
    }
    this.tellHopeless();
  }

  private begin(): () => void {
    const start = { beganAtMs: performance.now() };
    this.running.add(start);
    return () => {
      if (!this.running.delete(start)) return;
      this.durationsMs.push(performance.now() - start.beganAtMs);
      if (this.durationsMs.length > DURATIONS_KEPT) this.durationsMs.shift();
      if (!this.isClosed) this.goOn();
    };
  }

  private tellHopeless(): void {
    const now = { ms: Date.now(), monotonicMs: performance.now() };
    const startsMs = medianOf(this.durationsMs);
    const waiting = [...this.waiting];
    const expected = expectedWaits({
      slots: this.startsAtOnce,
      runningForMs: [...this.running].map(({ beganAtMs }) => now.monotonicMs - beganAtMs),
      leftMs: waiting.map(({ deadlineAtMs }) => deadlineAtMs - now.ms),
      startsMs,
    });
    waiting.forEach(({ end }, at) => {
      const { waitMs = 0, isHopeless = false } = expected[at] ?? {};
      if (isHopeless || at >= this.maxWaiting) end({ kind: "hopeless", waitMs });
    });
  }
}

export interface ExpectedWait {
  waitMs: number;
  isHopeless: boolean;
}

/**
 * Expected waits of the starts, in their order, if each start takes `startsMs`: the time until a
 * slot is free. A start whose slot is free only after its `leftMs` is hopeless, and takes no slot.
 * No start is hopeless while no duration is known.
 */
export function expectedWaits(seen: {
  slots: number;
  /** Elapsed time of each running start. */
  runningForMs: readonly number[];
  /** Time until the deadline of each waiting start. */
  leftMs: readonly number[];
  startsMs: number | undefined;
}): ExpectedWait[] {
  const { slots, runningForMs, leftMs, startsMs } = seen;
  if (startsMs === undefined) return leftMs.map(() => ({ waitMs: 0, isHopeless: false }));
  const busyForMs = runningForMs.map((ms) => Math.max(0, startsMs - ms));
  const free = Array.from({ length: Math.max(0, slots - busyForMs.length) }, () => 0);
  const freeInMs = [...busyForMs, ...free];
  return leftMs.map((left) => {
    const waitMs = Math.min(...freeInMs);
    const isHopeless = waitMs > left;
    if (!isHopeless) freeInMs[freeInMs.indexOf(waitMs)] = waitMs + startsMs;
    return { waitMs, isHopeless };
  });
}

function medianOf(values: readonly number[]): number | undefined {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
