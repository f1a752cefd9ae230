/** Runs of guards, and their verdicts. */
import { readFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { type Copy, inCopy, ROOT } from "./copy.ts";
import type { Guard, Mutation } from "./mutations.ts";

const VITEST = join(ROOT, "node_modules/vitest/vitest.mjs");
const TSC = join(ROOT, "node_modules/typescript/bin/tsc");
/**
 * The tests that an ordinary run leaves out are left out here, too. The first failure is enough.
 */
const ORDINARY = ["--tags-filter", "!exhaustive", "--bail", "1"];
const UNUSED_IS_FINE = ["--noUnusedLocals", "false", "--noUnusedParameters", "false"];

export type Verdict =
  | { kind: "green" }
  /** `by` names the test that failed, and why. */
  | { kind: "red"; by: string }
  /** The run does not decide about the rule. */
  | { kind: "undecided"; why: string };

/** Runs the tests, with the product broken if a mutation is given. Throws when interrupted. */
export async function runGuard(
  guard: Guard,
  signal: AbortSignal,
  mutation?: Mutation,
): Promise<Verdict> {
  const broken = mutation === undefined ? [] : [mutation];
  try {
    return await inCopy(broken, signal, (copy) => verdictIn(copy, guard));
  } catch (error) {
    signal.throwIfAborted();
    return { kind: "undecided", why: error instanceof Error ? error.message : String(error) };
  }
}

/**
 * The compiler's errors for the product with all the mutations, or undefined. Code that cannot work
 * may turn a test red without breaking a rule.
 */
export async function typeErrors(
  mutations: Mutation[],
  signal: AbortSignal,
): Promise<string | undefined> {
  const packages = new Set(mutations.map(({ file }) => file.split("/", 2).join("/")));
  return await inCopy(mutations, signal, async (copy) => {
    for (const name of packages) {
      const code = await copy.run([TSC, "-p", name, ...UNUSED_IS_FINE]);
      if (code !== 0) return await copy.lastLines();
    }
    return undefined;
  });
}

async function verdictIn(copy: Copy, { project, guards, tests }: Guard): Promise<Verdict> {
  const named = tests === undefined ? [] : ["--testNamePattern", tests];
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${copy.report}`];
  const options = ["--project", project, ...named, ...ORDINARY, ...reporters];
  await copy.run([VITEST, "run", ...options, ...guards]);
  const report = await readFile(copy.report, "utf8").catch(() => undefined);
  const verdict =
    report === undefined ? undefined : verdictOf(JSON.parse(report) as Report, copy.root);
  if (verdict !== undefined) return verdict;
  return { kind: "undecided", why: `no test passed, and none failed:\n${await copy.lastLines()}` };
}

/** The part of vitest's JSON report that is used. */
interface Report {
  success: boolean;
  numPassedTests: number;
  testResults: {
    name: string;
    assertionResults: { fullName: string; status: string; failureMessages: string[] }[];
  }[];
}

/** Undefined when no test passed or failed, as with a file that could not be loaded. */
function verdictOf(report: Report, root: string): Verdict | undefined {
  if (report.success && report.numPassedTests > 0) return { kind: "green" };
  for (const { name, assertionResults } of report.testResults) {
    const failed = assertionResults.find(({ status }) => status === "failed");
    if (failed === undefined) continue;
    const [reason = ""] = failed.failureMessages[0]?.split("\n", 1) ?? [];
    return { kind: "red", by: `${relative(root, name)}: ${failed.fullName}: ${reason}` };
  }
  return undefined;
}
