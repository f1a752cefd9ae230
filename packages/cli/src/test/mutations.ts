/**
 * Runs tests/mutations as a stage: each broken rule that a test detects counts as a passed test.
 */
import { join } from "node:path";
import { run } from "@torpor/service";
import type { TestPlace } from "./run-vitest.ts";
import { emptyReport, type TestReport } from "./reporter.ts";

export async function runMutations({ root, signal }: TestPlace): Promise<TestReport> {
  const { code, output } = await run([process.execPath, join(root, "tests/mutations/run.ts")], {
    cwd: root,
    isShown: false,
    signal,
  });
  const [caught, survived] = (/^(\d+) caught, (\d+) survived$/m.exec(output)?.slice(1) ?? []).map(
    Number,
  );
  if (caught === undefined || survived === undefined || (code !== 0 && survived === 0))
    return {
      ...emptyReport(),
      failed: 1,
      failures: [`mutations: did not run to their end\n${output.trim()}`],
    };
  const failures = survived === 0 ? [] : [`mutations: ${survived} survived\n${output.trim()}`];
  return { ...emptyReport(), passed: caught, failed: survived, failures };
}
