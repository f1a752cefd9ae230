/**
 * How long each test file took when it ran last, in `.torpor/test-times.json`: long files first
 * keeps every worker busy to the end.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { FileTime } from "./reporter.ts";

const FILE = fileURLToPath(new URL("../../../../.torpor/test-times.json", import.meta.url));

/** Seconds by path, relative to the root of the checkout. */
export type TestTimes = Record<string, number>;

/** Of a checkout that has run no test: none. */
export function readTimes(): TestTimes {
  try {
    return JSON.parse(readFileSync(FILE, "utf8")) as TestTimes;
  } catch {
    return {};
  }
}

export function keepTimes(files: readonly FileTime[]): void {
  const times = {
    ...readTimes(),
    ...Object.fromEntries(files.map(({ path, seconds }) => [path, Math.round(seconds * 10) / 10])),
  };
  writeFileSync(FILE, `${JSON.stringify(times, undefined, 1)}\n`);
}
