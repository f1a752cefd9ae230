import { expect, test } from "vitest";
import { addReport, emptyReport } from "../src/test/reporter.ts";
import { summaryOf, unheldScenarios } from "../src/test/summary.ts";

const stage = (name: string) => ({ name, seconds: 1.25, passed: 1, failed: 0, skipped: 0 });

test("the end of a run: failures first, the slowest files, the counts last", () => {
  const total = emptyReport();
  const files = Array.from({ length: 12 }, (_, at) => ({ path: `${at}.test.ts`, seconds: at }));
  addReport(total, {
    ...emptyReport(),
    passed: 3,
    failed: 1,
    failures: ["a.test.ts: is green\nit is red"],
    files,
  });
  addReport(total, { ...emptyReport(), passed: 2, skipped: 1, leftOut: 4 });
  const lines = summaryOf([stage("unit"), stage("vm")], total, 42)
    .join("\n")
    .split("\n");
  expect(lines.slice(1, 4)).toEqual(["failed:", "a.test.ts: is green", "it is red"]);
  expect(lines.filter((line) => line.includes(".test.ts") && line.includes(" s  "))).toHaveLength(
    10,
  );
  expect(lines.find((line) => line.includes(" s  "))).toContain("11.test.ts");
  expect(lines.join("\n")).toMatch(/4 more run with .*--all[^]*seed 42.*--seed 42/);
  expect(lines.at(-1)).toBe("5 passed, 1 failed, 1 skipped");
});

test("nothing failed: no word of it, and the last line has no skipped ones", () => {
  const text = summaryOf([stage("unit")], { ...emptyReport(), passed: 1 }, 42);
  expect(text.join("\n")).not.toContain("failed:");
  expect(text.at(-1)).toBe("1 passed, 0 failed");
});

test("a scenario that only exhaustive tests name is told", () => {
  const scenarios = { ordinary: ["S1", "S2"], exhaustive: ["S2", "S3", "S3"] };
  expect(unheldScenarios({ scenarios })).toEqual(["S3"]);
});
