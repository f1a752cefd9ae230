import { describe, expect, test } from "vitest";
import { backoffMs, sleep } from "../src/index.ts";

describe("backoff", () => {
  test.each([0, 1, 2, 5, 40, 10_000])(
    "attempt %i waits between half and all of its ceiling, never longer than the limit",
    (attempt) => {
      const ceiling = Math.min(30_000, 100 * 2 ** attempt);
      for (let draws = 0; draws < 200; draws += 1) {
        const ms = backoffMs(attempt, { baseMs: 100, maxMs: 30_000 });
        expect(ms).toBeGreaterThanOrEqual(Math.floor(ceiling / 2));
        expect(ms).toBeLessThanOrEqual(ceiling);
      }
    },
  );

  test("two clients do not wait equally long", () => {
    expect(
      new Set(Array.from({ length: 50 }, () => backoffMs(10, { baseMs: 1_000, maxMs: 60_000 })))
        .size,
    ).toBeGreaterThan(10);
  });

  test("a pause ends at once, and says so, when its signal aborts: before it or during it", async () => {
    expect(await sleep(60_000, AbortSignal.abort())).toBe(false);
    const controller = new AbortController();
    const paused = sleep(60_000, controller.signal);
    controller.abort();
    expect(await paused).toBe(false);
    expect(await sleep(1, new AbortController().signal)).toBe(true);
  });
});
