/** The static checks; each counts as one test. */
import { run } from "@torpor/service";
import type { TestPlace } from "./run-vitest.ts";
import { emptyReport, firstLines, type TestReport } from "./reporter.ts";

export interface StaticCheck {
  name: string;
  /** Name of the script for `pnpm run`. */
  script: string;
}

export const CHECKS: readonly StaticCheck[] = [
  { name: "types", script: "typecheck" },
  { name: "lint", script: "lint" },
  { name: "format", script: "fmt:check" },
  { name: "dead code", script: "dead" },
  { name: "house", script: "house" },
];

/** Returns the report of a check, with its output on failure. */
export async function runCheck(
  { root, signal }: TestPlace,
  { name, script }: StaticCheck,
): Promise<{ report: TestReport; output: string }> {
  const { code, output } = await run(["pnpm", "--silent", "run", script], {
    cwd: root,
    isShown: false,
    signal,
  });
  if (code === 0) return { report: { ...emptyReport(), passed: 1 }, output: "" };
  return {
    report: { ...emptyReport(), failed: 1, failures: [`check: ${name}\n${firstLines(output)}`] },
    output,
  };
}
