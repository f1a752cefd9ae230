/**
 * The result of a vitest run, for the summary of `torpor test`: a reporter that writes it, and its
 * reader. Vitest's own JSON report has neither the diff of an assertion nor the errors outside of
 * tests.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import { failureDirectory } from "@torpor/testkit/evidence";
import { EXHAUSTIVE } from "../../../../scripts/test-tags.ts";
import type { Reporter, SerializedError, TestCase, TestModule, TestSuite } from "vitest/node";

/** Environment variable with the path of the report. */
export const REPORT_VARIABLE = "TORPOR_TEST_REPORT";

export interface FileTime {
  /** Relative to the root of the checkout. */
  path: string;
  seconds: number;
}

export interface TestReport {
  passed: number;
  failed: number;
  skipped: number;
  /**
   * Failures of tests, of hooks and files, tests that did not finish, and errors outside of them:
   * each with its name, message and diff.
   */
  failures: string[];
  files: FileTime[];
  /** Tests that only `--all` runs. */
  leftOut: number;
  /**
   * Scenarios that test names cite (`S33`): in the ordinary run, and in tests that only `--all`
   * runs.
   */
  scenarios: { ordinary: string[]; exhaustive: string[] };
}

export const emptyReport = (): TestReport => ({
  passed: 0,
  failed: 0,
  skipped: 0,
  failures: [],
  files: [],
  leftOut: 0,
  scenarios: { ordinary: [], exhaustive: [] },
});

/** Adds the counts of `report` to those of `to`. */
export function addReport(to: TestReport, report: TestReport): void {
  for (const count of ["passed", "failed", "skipped", "leftOut"] as const)
    to[count] += report[count];
  to.failures.push(...report.failures);
  to.files.push(...report.files);
  for (const run of ["ordinary", "exhaustive"] as const)
    to.scenarios[run].push(...report.scenarios[run]);
}

const MAX_MESSAGE_LINES = 40;

/** The first lines of a message, without frames of dependencies. */
export function firstLines(text: string): string {
  return text
    .split("\n")
    .filter((line) => !line.includes("/node_modules/"))
    .slice(0, MAX_MESSAGE_LINES)
    .join("\n");
}

/** The report in `path`; zeros if there is none. */
export function readReport(path: string): TestReport {
  if (!existsSync(path)) return emptyReport();
  return JSON.parse(readFileSync(path, "utf8")) as TestReport;
}

export default class TestReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly SerializedError[]): void {
    const path = process.env[REPORT_VARIABLE];
    if (path === undefined)
      throw new Error(`${REPORT_VARIABLE} is not set: it says where the report goes`);
    writeFileSync(path, JSON.stringify(reportOf(modules, unhandled)));
  }
}

function reportOf(
  modules: readonly TestModule[],
  unhandled: readonly SerializedError[],
): TestReport {
  const tests = modules.flatMap((module) => [...module.children.allTests()]);
  const count = (state: string) => tests.filter((test) => test.result().state === state).length;
  const failures = [
    ...modules.flatMap((module) => [
      ...failuresOf(module.relativeModuleId, module.errors()),
      ...[...module.children.allSuites()].flatMap((suite) =>
        failuresOf(nameOf(suite), suite.errors()),
      ),
    ]),
    ...tests.flatMap(failuresOfTest),
    ...tests
      .filter((test) => test.result().state === "pending")
      .map((test) => `${nameOf(test)}\nwas not run to its end`),
    ...unhandled.map((error) => `outside of any test\n${toldWhole(error)}`),
  ];
  const files = modules.map((module) => ({
    path: module.relativeModuleId,
    seconds: secondsOf(module),
  }));
  const leftOut = tests.filter((test) => isExhaustive(test) && test.result().state === "skipped");
  return {
    passed: count("passed"),
    failed: failures.length,
    skipped: count("skipped") - leftOut.length,
    failures,
    files,
    leftOut: leftOut.length,
    scenarios: {
      ordinary: scenariosOf(tests.filter((test) => !isExhaustive(test))),
      exhaustive: scenariosOf(tests.filter(isExhaustive)),
    },
  };
}

const isExhaustive = (test: TestCase) => test.tags.includes(EXHAUSTIVE.name);

/** The acceptance scenarios cited by the names of tests and of their suites. */
function scenariosOf(tests: readonly TestCase[]): string[] {
  return [...new Set(tests.flatMap(({ fullName }) => fullName.match(/\bS\d{1,2}\b/g) ?? []))];
}

function secondsOf(module: TestModule): number {
  const { collectDuration, setupDuration, duration, prepareDuration } = module.diagnostic();
  return (collectDuration + setupDuration + duration + prepareDuration) / 1000;
}

/** Adds the directory of the test's evidence, if there is any (testkit's evidence.ts). */
function failuresOfTest(test: TestCase): string[] {
  if (test.result().state !== "failed") return [];
  const kept = failureDirectory(test.module.relativeModuleId, test.fullName);
  const where = existsSync(kept) ? [`kept: ${kept}`] : [];
  return failuresOf(nameOf(test), test.result().errors ?? []).map((text) =>
    [text, ...where].join("\n"),
  );
}

const nameOf = (of: TestCase | TestSuite) => `${of.module.relativeModuleId}: ${of.fullName}`;

/** One failure, with all its errors. */
function failuresOf(name: string, errors: readonly SerializedError[]): string[] {
  return errors.length === 0 ? [] : [`${name}\n${errors.map(told).join("\n")}`];
}

/** The parts of vitest's errors that are reported, all optional except the message. */
interface Told {
  /** For an error outside of any test: its kind, and the file and test that ran at the time. */
  type?: string;
  VITEST_TEST_PATH?: string;
  VITEST_TEST_NAME?: string;
  name?: string;
  message: string;
  stack?: string;
  diff?: string;
  cause?: Told;
}

/** Includes every frame: an error may have only frames of a library. */
function toldWhole(error: Told): string {
  const { type, VITEST_TEST_PATH: path, VITEST_TEST_NAME: name } = error;
  const where = [type, path, name].filter((part) => part !== undefined).join(", ");
  return stripVTControlCharacters(
    `${where}\n${error.stack ?? `${error.name ?? "Error"}: ${error.message}`}${causeOf(error.cause)}`,
  );
}

const causeOf = (cause: Told | undefined): string =>
  cause === undefined ? "" : `\ncaused by ${told(cause)}`;

function told({ name = "Error", message, stack, diff, cause }: Told): string {
  const frames = (stack ?? "").split("\n").filter((line) => /^\s+at /.test(line));
  const parts = [`${name}: ${message}`, ...(diff === undefined ? [] : [diff]), ...frames];
  return firstLines(stripVTControlCharacters(parts.join("\n") + causeOf(cause)));
}
