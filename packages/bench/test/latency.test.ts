import { expect, test } from "vitest";
import { latencyOf } from "../src/report/latency.ts";
import { Tally } from "../src/load/tally.ts";

test("a quantile is the smallest value that so many do not exceed", () => {
  const hundred = Array.from({ length: 100 }, (_, at) => 100 - at);
  expect(latencyOf(hundred)).toEqual({ count: 100, p50Ms: 50, p90Ms: 90, p99Ms: 99, worstMs: 100 });
  expect(latencyOf([7])).toEqual({ count: 1, p50Ms: 7, p90Ms: 7, p99Ms: 7, worstMs: 7 });
  expect(latencyOf([3, 1, 2, 4]).p50Ms).toBe(2);
  expect(latencyOf([])).toMatchObject({ count: 0, p50Ms: Number.NaN });
});

test("a tally counts what ends while it is open, and failures always", () => {
  const tally = new Tally();
  tally.succeeded("pause", 1_000);
  tally.failed("pause: 503");
  tally.open();
  tally.succeeded("pause", 10);
  tally.succeeded("resume", 30);
  tally.close();
  tally.succeeded("resume", 1_000);
  expect(tally.count()).toBe(2);
  expect(tally.done).toBe(4);
  expect(Object.keys(tally.latencies())).toEqual(["all", "pause", "resume"]);
  expect(tally.latencies()["all"]).toMatchObject({ count: 2, p50Ms: 10, worstMs: 30 });
  expect(tally.failedBy()).toEqual({ "pause: 503": 1 });
});
