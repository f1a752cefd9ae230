import { describe, expect, test } from "vitest";
import { measured } from "../src/drains/measure.ts";

const START = new Date("2030-01-01T00:00:00Z");
const after = (seconds: number) => new Date(START.getTime() + seconds * 1000);
const begun = { measuredBytes: 0, measuredAt: START, bytesPerSecond: null };

/** Measures every two seconds; `bytes` returns how much is copied at each second. */
function over(
  seconds: number,
  bytes: (second: number) => number,
  from: Parameters<typeof measured>[0] = begun,
) {
  let now = from;
  const fromS = (from.measuredAt.getTime() - START.getTime()) / 1000;
  for (let second = fromS + 2; second <= fromS + seconds; second += 2)
    now = measured(now, { bytes: bytes(second), at: after(second) });
  return now;
}

describe("the pace of a drain", () => {
  test("is not known until something is copied, and has the time before that in it", () => {
    expect(over(20, () => 0)).toBe(begun);
    expect(over(20, (second) => (second < 20 ? 0 : 1000)).bytesPerSecond).toBe(50);
  });

  test("is that of an even copy", () => {
    expect(over(10, (second) => second * 500).bytesPerSecond).toBeCloseTo(500);
  });

  test("follows a new one in about half a minute", () => {
    const before = over(60, (second) => second * 100);
    const slower = (second: number) => 6000 + (second - 60) * 10;
    expect(over(30, slower, before).bytesPerSecond).toBeCloseTo(10 + 90 / Math.E, 3);
    expect(over(300, slower, before).bytesPerSecond).toBeLessThan(11);
  });

  test("counts what is copied a second time once, and never less than nothing", () => {
    const before = over(10, (second) => second * 100);
    const lost = measured(before, { bytes: 0, at: after(12) });
    expect(lost.measuredBytes).toBe(1000);
    expect(lost.bytesPerSecond).toBeLessThan(100);
    const again = measured(lost, { bytes: 1000, at: after(14) });
    expect(again.bytesPerSecond, "as much as it was").toBeLessThan(lost.bytesPerSecond ?? 0);
    expect(measured(before, { bytes: 9999, at: before.measuredAt }), "no time has passed").toBe(
      before,
    );
  });
});
