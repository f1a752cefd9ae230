/**
 * Durations of the test files in their last run, in `.torpor/test-times.json`: starting long files
 * first keeps every worker busy to the end. A new checkout uses `tests/long-files.json`, which is
 * copied from there now and then.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { FileTime } from "./reporter.ts";

const ROOT = new URL("../../../../", import.meta.url);
const FILE = fileURLToPath(new URL(".torpor/test-times.json", ROOT));
const LONG_FILES = fileURLToPath(new URL("tests/long-files.json", ROOT));
/** For a file in neither list, which is short or new. */
const UNKNOWN_SECONDS = 10;

/** Seconds by path, relative to the root of the checkout. */
export type TestTimes = Record<string, number>;

export const readTimes = (): TestTimes => ({ ...timesIn(LONG_FILES), ...timesIn(FILE) });

export const secondsOf = (times: TestTimes, path: string) => times[path] ?? UNKNOWN_SECONDS;

/** Empty if the file does not exist. */
function timesIn(file: string): TestTimes {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as TestTimes;
  } catch {
    return {};
  }
}

export function keepTimes(files: readonly FileTime[]): void {
  const times = {
    ...timesIn(FILE),
    ...Object.fromEntries(files.map(({ path, seconds }) => [path, Math.round(seconds * 10) / 10])),
  };
  writeFileSync(FILE, `${JSON.stringify(times, undefined, 1)}\n`);
}
