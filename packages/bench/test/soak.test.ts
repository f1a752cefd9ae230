import { expect, test } from "vitest";
import { fitOf, type Sample } from "../src/soak/fit.ts";
import type { Reading } from "../src/soak/samples.ts";
import { hasGrown, Soaked, soakRows } from "../src/soak/series.ts";

const ALLOWED = { rise: 2, share: 0.05 };
/** A sample every ten seconds for half an hour. */
const sampled = (valueAt: (atS: number) => number): Sample[] =>
  Array.from({ length: 180 }, (_, at) => ({ atS: at * 10, value: valueAt(at * 10) }));
const HOUR_S = 3_600;
/** Alternates by one, as a heap does between collections. */
const saw = (atS: number) => ((atS / 10) % 2 === 0 ? 1 : -1);

test("a line is found through what scatters about it", () => {
  const fit = fitOf(
    sampled((atS) => 100 + (60 * atS) / HOUR_S + saw(atS)),
    ALLOWED,
  );
  expect(fit).toMatchObject({ samples: 120, verdict: "grows" });
  expect(fit.perHour).toBeCloseTo(60, 0);
  expect(fit.scatter).toBeCloseTo(1, 1);
});

test.each<[string, (atS: number) => number, string]>([
  ["what stays", () => 100, "flat"],
  ["what goes up and down, a lot", (atS) => 100 + 30 * saw(atS), "flat"],
  ["what shrinks", (atS) => 200 - (60 * atS) / HOUR_S, "flat"],
  ["what grew in the warm-up alone", (atS) => 100 + Math.min(50, atS / 10), "flat"],
  ["a rise that is allowed", (atS) => 10 + (5 * atS) / HOUR_S, "flat"],
  ["a rise of that much that is no small part", (atS) => 10 + (7 * atS) / HOUR_S, "grows"],
  ["the same rise of what is large", (atS) => 100 + (7 * atS) / HOUR_S, "flat"],
  [
    "a rise that is less than what scatters",
    (atS) => 100 + (24 * atS) / HOUR_S + 5 * saw(atS),
    "flat",
  ],
  ["that rise, where less scatters", (atS) => 100 + (24 * atS) / HOUR_S + saw(atS), "grows"],
])("%s: %s", (_, valueAt, verdict) => {
  expect(fitOf(sampled(valueAt), ALLOWED).verdict).toBe(verdict);
});

test("nothing is said from a few samples, or from none", () => {
  expect(fitOf(sampled((atS) => atS).slice(0, 6), ALLOWED)).toMatchObject({ verdict: "unknown" });
  expect(fitOf([], ALLOWED)).toMatchObject({ samples: 0, verdict: "unknown", perHour: 0 });
});

test("each component has its verdict; what is kept for a time by design is not judged", () => {
  const soaked = new Soaked();
  for (const { atS } of sampled(() => 0)) {
    const readings: Reading[] = [
      { of: "gateway-1", what: "heap", value: 30 + (60 * atS) / HOUR_S },
      { of: "gateway-1", what: "open files", value: 40 },
      { of: "EVENTS", what: "stream kept", value: atS },
    ];
    soaked.add(atS, readings);
  }
  const fits = soaked.fits();
  expect(fits.map(({ verdict }) => verdict)).toEqual(["grows", "flat", "not judged"]);
  expect(hasGrown(fits)).toBe(true);
  expect(hasGrown(fits.slice(1))).toBe(false);
  const { head, rows } = soakRows(fits);
  for (const row of rows) expect(row).toHaveLength(head.length);
  expect(rows.map((row) => row.at(-1))).toEqual([
    "grows by 60.0 MiB/h",
    "flat",
    "not judged: kept for a time",
  ]);
});
