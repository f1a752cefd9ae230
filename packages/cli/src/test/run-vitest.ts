/** One run of vitest over one layer of the tests, or over single files. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { run } from "@torpor/service";
import { EXHAUSTIVE } from "../../../../scripts/test-tags.ts";
import type { Layer, TestOptions } from "./options.ts";
import { readReport, REPORT_VARIABLE, type TestReport } from "./reporter.ts";

/** Variable with the seed of all random values in tests (testkit's seed.ts). */
const SEED_VARIABLE = "TORPOR_TEST_SEED";

/** The checkout that tests run in, and the signal that ends them. */
export interface TestPlace {
  /** Root of the checkout. */
  root: string;
  signal: AbortSignal;
}

export interface LayerResult {
  name: string;
  seconds: number;
  report: TestReport;
  /** Path of vitest's own JSON report. */
  vitestReport: string;
  /** The output of the run. */
  output: string;
}

export async function runLayer(
  place: TestPlace,
  layer: Layer,
  options: TestOptions,
): Promise<LayerResult> {
  const { shard, changedSince, isExhaustive } = options;
  const args = [
    "--project",
    layer,
    ...ordinaryOnly(isExhaustive),
    ...(shard === undefined ? [] : ["--shard", `${shard.index}/${shard.count}`]),
    ...(changedSince === undefined ? [] : ["--changed", changedSince]),
  ];
  return await runVitest(place, layer, options.seed, args);
}

/** Arguments for vitest that exclude tests which only `--all` runs. */
export const ordinaryOnly = (isExhaustive: boolean) =>
  isExhaustive ? [] : ["--tags-filter", `!${EXHAUSTIVE.name}`];

/** Throws when the signal aborts. */
export async function runVitest(
  { root, signal }: TestPlace,
  name: string,
  seed: number,
  args: string[],
  isShown = true,
): Promise<LayerResult> {
  const startedAt = performance.now();
  const report = join(root, `.torpor/report-${name}.json`);
  const vitestReport = join(root, `.torpor/test-${name}.json`);
  for (const path of [report, vitestReport]) rmSync(path, { force: true });
  const reporters = ["default", "json", join(root, "packages/cli/src/test/reporter.ts")].map(
    (each) => `--reporter=${each}`,
  );
  const vitest = [process.execPath, join(root, "node_modules/vitest/vitest.mjs"), "run"];
  const common = ["--passWithNoTests", "--sequence.seed", String(seed)];
  const command = [
    ...vitest,
    ...common,
    ...reporters,
    `--outputFile.json=${vitestReport}`,
    ...args,
  ];
  const env = { [REPORT_VARIABLE]: report, [SEED_VARIABLE]: String(seed) };
  const { code, output } = await run(command, { cwd: root, env, isShown, signal });
  const seen = readReport(report);
  if (code !== 0 && seen.failed === 0) {
    seen.failed = 1;
    const said = isShown ? "what it printed is above" : output.split("\n").slice(-20).join("\n");
    seen.failures.push(`${name}: vitest ended with ${code} and told of no failure; ${said}`);
  }
  const seconds = (performance.now() - startedAt) / 1000;
  return { name, seconds, report: seen, vitestReport, output };
}
