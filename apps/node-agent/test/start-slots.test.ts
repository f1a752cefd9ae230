/**
 * Slots for starts on a host: how many run at once, which is next, and which is reported as too
 * late.
 */
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { expectedWaits, type StartSlot, StartSlots } from "../src/lifecycle/start-slots.ts";

const TAKES_MS = 1_000;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** Starts that arrive one after the other, and the outcome of each. */
class Crowd {
  readonly slots: StartSlots;
  readonly ended = new Map<string, StartSlot>();
  private readonly cancels = new Map<string, AbortController>();

  constructor(startsAtOnce: number, maxWaiting?: number) {
    this.slots = new StartSlots(startsAtOnce, maxWaiting);
  }

  async comes(name: string, inMs = Infinity): Promise<void> {
    const abort = new AbortController();
    this.cancels.set(name, abort);
    const deadlineAtMs = Date.now() + inMs;
    void this.slots
      .take({ signal: abort.signal, deadlineAtMs })
      .then((slot) => this.ended.set(name, slot));
    await complete();
  }

  async cancel(name: string): Promise<void> {
    this.cancels.get(name)?.abort();
    await complete();
  }

  async release(name: string): Promise<void> {
    const slot = this.ended.get(name);
    if (slot?.kind !== "granted") throw new Error(`${name} has no slot`);
    slot.release();
    await complete();
  }

  /** Completes one start of this duration. */
  async knows(takesMs: number): Promise<void> {
    await this.comes("known");
    await vi.advanceTimersByTimeAsync(takesMs);
    await this.release("known");
    this.ended.clear();
  }

  get kinds(): Record<string, StartSlot["kind"]> {
    return Object.fromEntries([...this.ended].map(([name, { kind }]) => [name, kind]));
  }
}

const complete = () => vi.advanceTimersByTimeAsync(0);

test("SS1: as many begin as there are slots; the others in the order in which they came", async () => {
  const crowd = new Crowd(2);
  for (const name of ["a", "b", "c", "d"]) await crowd.comes(name);
  expect(crowd.kinds).toEqual({ a: "granted", b: "granted" });
  expect(crowd.slots.load).toEqual({ startsAtOnce: 2, startsRunning: 2, startsWaiting: 2 });
  await crowd.release("b");
  expect(crowd.kinds).toEqual({ a: "granted", b: "granted", c: "granted" });
  await crowd.release("c");
  await crowd.release("a");
  expect(crowd.kinds).toMatchObject({ d: "granted" });
  expect(crowd.slots.load).toEqual({ startsAtOnce: 2, startsRunning: 1, startsWaiting: 0 });
});

test("a slot is given back once, however often it is said", async () => {
  const crowd = new Crowd(1);
  for (const name of ["a", "b", "c"]) await crowd.comes(name);
  await crowd.release("a");
  await crowd.release("a");
  expect(crowd.kinds).toEqual({ a: "granted", b: "granted" });
});

test("SS2: a cancelled one gets no slot, and holds up nobody", async () => {
  const crowd = new Crowd(1);
  for (const name of ["a", "b", "c"]) await crowd.comes(name);
  await crowd.cancel("b");
  expect(crowd.kinds).toEqual({ a: "granted", b: "cancelled" });
  await crowd.release("a");
  expect(crowd.kinds).toMatchObject({ c: "granted" });
  const before = new AbortController();
  before.abort();
  const taken = await crowd.slots.take({ signal: before.signal, deadlineAtMs: Infinity });
  expect(taken).toEqual({ kind: "cancelled" });
});

test("one that is cancelled in the moment of its grant gives its slot to the next", async () => {
  const crowd = new Crowd(1);
  for (const name of ["a", "b", "c"]) await crowd.comes(name);
  const slot = crowd.ended.get("a");
  if (slot?.kind === "granted") slot.release();
  await crowd.cancel("b");
  expect(crowd.kinds).toEqual({ a: "granted", b: "cancelled", c: "granted" });
});

test("SS2: nobody waits past his deadline, and who comes after it begins nothing", async () => {
  const crowd = new Crowd(1);
  await crowd.comes("a");
  await crowd.comes("b", 500);
  await crowd.comes("late", -1);
  expect(crowd.kinds).toEqual({ a: "granted", late: "late" });
  await vi.advanceTimersByTimeAsync(500);
  expect(crowd.kinds).toMatchObject({ b: "late" });
});

test("a deadline that lies further off than a timer can wait is no deadline of now", async () => {
  const crowd = new Crowd(1);
  await crowd.comes("a");
  await crowd.comes("b", Date.parse("2099-01-01") - Date.now());
  expect(crowd.kinds).toEqual({ a: "granted" });
});

test("a host that closes begins nothing; who waits is told so", async () => {
  const crowd = new Crowd(1);
  for (const name of ["a", "b"]) await crowd.comes(name);
  crowd.slots.close();
  await crowd.comes("c");
  await crowd.release("a");
  expect(crowd.kinds).toEqual({ a: "granted", b: "closing", c: "closing" });
});

describe("who cannot begin in time", () => {
  test("SS3: is told when he comes, once it is known how long starts take", async () => {
    const crowd = new Crowd(1);
    await crowd.knows(TAKES_MS);
    await crowd.comes("a");
    await crowd.comes("b", 1.5 * TAKES_MS);
    await crowd.comes("c", 1.5 * TAKES_MS);
    await crowd.comes("d", 2.5 * TAKES_MS);
    expect(crowd.ended.get("c")).toEqual({ kind: "hopeless", waitMs: 2 * TAKES_MS });
    expect(crowd.kinds, "its place is the next one's").toEqual({ a: "granted", c: "hopeless" });
  });

  test("SS3: is told when a start has ended that took longer than those before it", async () => {
    const crowd = new Crowd(1);
    await crowd.comes("a");
    for (const name of ["b", "c", "d"]) await crowd.comes(name, 2.5 * TAKES_MS);
    expect(crowd.kinds, "nothing is known yet").toEqual({ a: "granted" });
    await vi.advanceTimersByTimeAsync(TAKES_MS);
    await crowd.release("a");
    expect(crowd.kinds).toEqual({ a: "granted", b: "granted", d: "hopeless" });
  });

  test("waits where nothing is known of how long starts take", async () => {
    const crowd = new Crowd(1);
    await crowd.comes("a");
    for (const name of ["b", "c"]) await crowd.comes(name, 1);
    expect(crowd.kinds).toEqual({ a: "granted" });
  });

  test("is told where too many wait already", async () => {
    const crowd = new Crowd(1, 2);
    for (const name of ["a", "b", "c", "d"]) await crowd.comes(name);
    expect(crowd.kinds).toEqual({ a: "granted", d: "hopeless" });
  });
});

test("what is expected is what happens where every start takes the same", () => {
  const cases = fc.record({
    slots: fc.integer({ min: 1, max: 4 }),
    running: fc.integer({ min: 0, max: 4 }),
    waiting: fc.integer({ min: 0, max: 12 }),
    startsMs: fc.integer({ min: 1, max: 5_000 }),
  });
  fc.assert(
    fc.property(cases, ({ slots, running, waiting, startsMs }) => {
      const busy = Math.min(slots, running);
      const waits = expectedWaits({
        slots,
        runningForMs: Array.from({ length: busy }, () => 0),
        leftMs: Array.from({ length: waiting }, () => Infinity),
        startsMs,
      });
      const rounds = waits.map(({ waitMs }) => waitMs / startsMs);
      expect(rounds).toEqual(waits.map((_, at) => Math.floor((busy + at) / slots)));
      expect(waits.some(({ isHopeless }) => isHopeless)).toBe(false);
    }),
  );
});
