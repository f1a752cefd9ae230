/** How often a request that waits looks at the database, by a clock of the test. */
import { pino } from "pino";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { DEFAULT_LIMITS } from "../src/deps.ts";
import { createSandboxEvents } from "../src/sandbox-events.ts";
import { waitFor } from "../src/wait-for-operation.ts";

const ID = "1763309903rt5vs4lm";
beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function waiting() {
  const looksAtMs: number[] = [];
  const startedAt = performance.now();
  const events = createSandboxEvents();
  const [gone, stopping] = [new AbortController().signal, new AbortController().signal];
  const deps = {
    db: {} as never,
    log: pino({ level: "silent" }),
    events,
    stopping,
    limits: DEFAULT_LIMITS,
  };
  const look = async () => void looksAtMs.push(performance.now() - startedAt);
  const waited = waitFor(deps, ID, look, gone);
  return { looksAtMs, waited, events };
}

test("it looks often at first, and once a second after that", async () => {
  const { looksAtMs, waited } = waiting();
  await vi.advanceTimersByTimeAsync(DEFAULT_LIMITS.waitMs + 1);
  expect(await waited).toEqual({ kind: "still_open" });
  const between = looksAtMs.slice(1).map((at, index) => at - (looksAtMs[index] ?? 0));
  expect(Math.max(...between.slice(0, 8))).toBeLessThanOrEqual(DEFAULT_LIMITS.lookEveryMs + 20);
  expect(Math.max(...between)).toBeLessThanOrEqual(1_020);
  expect(looksAtMs.length, "of 333 when it looked as often to the end").toBeLessThan(100);
});

test("an event makes it look at once, however long it has waited", async () => {
  const { looksAtMs, waited, events } = waiting();
  await vi.advanceTimersByTimeAsync(30_000);
  const before = looksAtMs.length;
  events.emit({ sandboxId: ID } as never);
  await vi.advanceTimersByTimeAsync(0);
  expect(looksAtMs.length).toBe(before + 1);
  await vi.advanceTimersByTimeAsync(DEFAULT_LIMITS.waitMs);
  await waited;
});
