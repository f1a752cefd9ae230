/**
 * How many sandboxes this host starts at once, and who is next. A start keeps a processor and the
 * disk busy: many at once take as long as in a row, and all of them end late.
 *
 * SS1  First come, first served, and never more at once than there are slots.
 * SS2  A wait ends with its signal, at its deadline, or when the host closes, and nothing begins
 *      then. Of one that ended with its signal nothing begins even if its slot was free.
 * SS3  Whoever cannot begin before his deadline is told when that is known, by what starts have
 *      taken lately: when he comes, and whenever a start has ended.
 */
import { MAX_STARTS_WAITING } from "@torpor/contracts";

export interface GrantedSlot {
  kind: "granted";
  /** To be called however the start ends. */
  release: () => void;
}

export type StartSlot =
  | GrantedSlot
  | { kind: "cancelled" }
  /** Its deadline has passed. */
  | { kind: "late" }
  /** The next process carries it out. */
  | { kind: "closing" }
  /** It could begin in so long, which is after its deadline; or too many wait. */
  | { kind: "hopeless"; waitMs: number };

export interface SlotRequest {
  signal: AbortSignal;
  /** Since the epoch; Infinity: it waits as long as it takes. */
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

/** Of the newest starts. */
const DURATIONS_KEPT = 16;
/** Longer than that no timer lasts. */
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
    // It was cancelled between the grant and here.
    slot.release();
    return { kind: "cancelled" };
  }

  /** Nothing begins from here on; what has begun is not waited for. */
  close(): void {
    this.isClosed = true;
    for (const { end } of this.waiting) end({ kind: "closing" });
  }

  private goOn(): void {
    for (const one of this.waiting) {
      if (this.running.size >= this.startsAtOnce) break;
      // Its timer is late itself where the process is busy.
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
 * When those that wait can begin, in their order, if each start takes `startsMs`: the moment at
 * which a slot is free for it. One that is free after `leftMs` of it takes no slot. Nothing is
 * hopeless while nothing is known of how long starts take.
 */
export function expectedWaits(seen: {
  slots: number;
  /** Of each start that is carried out now: how long already. */
  runningForMs: readonly number[];
  /** Of each one that waits: until its deadline. */
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
