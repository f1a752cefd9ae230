/**
 * The end of a test run, in words: failures with their evidence, the time per layer, the slowest
 * files, the counts.
 */
import { table } from "../table.ts";
import type { FileTime, TestReport } from "./reporter.ts";

export interface RunStage {
  name: string;
  seconds: number;
  passed: number;
  failed: number;
  skipped: number;
}

const SLOWEST = 10;

/** The last line counts the tests, for readers of only that line. */
export function summaryOf(stages: readonly RunStage[], total: TestReport, seed: number): string[] {
  const { passed, failed, skipped, failures, files, leftOut } = total;
  return [
    ...(failures.length === 0 ? [] : ["", "failed:", ...failures]),
    "",
    table(["stage", "seconds", "passed", "failed", "skipped"], stages.map(rowOf)),
    "",
    ...(files.length === 0 ? [] : ["slowest files:", ...slowest(files), ""]),
    ...(leftOut === 0 ? [] : [`${leftOut} more run with ./torpor test --all`]),
    `seed ${seed}${failures.length === 0 ? "" : `; again with the same draws: ./torpor test --seed ${seed}`}`,
    `${passed} passed, ${failed} failed${skipped === 0 ? "" : `, ${skipped} skipped`}`,
  ];
}

function rowOf({ name, seconds, passed, failed, skipped }: RunStage): string[] {
  return [name, seconds.toFixed(1), ...[passed, failed, skipped].map(String)];
}

function slowest(files: readonly FileTime[]): string[] {
  const longest = files.toSorted((a, b) => b.seconds - a.seconds).slice(0, SLOWEST);
  return longest.map(({ path, seconds }) => `${seconds.toFixed(1).padStart(7)} s  ${path}`);
}

/**
 * Implements a rule of docs/testing.md: a scenario that only `--all` runs must also be covered by
 * the ordinary run.
 */
export function unheldScenarios({ scenarios }: Pick<TestReport, "scenarios">): string[] {
  return [...new Set(scenarios.exhaustive)].filter((name) => !scenarios.ordinary.includes(name));
}
