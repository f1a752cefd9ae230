/**
 * `torpor test`: static checks, then the layers of docs/testing.md. The last line counts the tests.
 */
import { randomInt } from "node:crypto";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { beginTestRun } from "@torpor/testkit/test-run";
import { staleCompatibility } from "../compatibility.ts";
import { messageOf } from "@torpor/service";
import { interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { CHECKS, runCheck } from "../test/checks.ts";
import { conformanceOnReal } from "../test/conformance-on-real.ts";
import { type Layer, LAYERS, SEED_LIMIT, type TestOptions, testOptions } from "../test/options.ts";
import { addReport, emptyReport, type TestReport } from "../test/reporter.ts";
import { runMutations } from "../test/mutations.ts";
import { type LayerResult, runLayer, type TestPlace } from "../test/run-vitest.ts";
import { runStress, type Stress } from "../test/stress.ts";
import { type RunStage, summaryOf, unheldScenarios } from "../test/summary.ts";
import { keepTimes } from "../test/times.ts";
import { buildImage } from "./image.ts";

const BOOTS_VMS: ReadonlySet<Layer> = new Set(["conformance", "vm"]);

export async function test(context: CommandContext): Promise<number> {
  await using _directory = await beginTestRun(context.root, context.write);
  const run = new TestRun(context);
  if (context.args.includes("--driver"))
    run.add("conformance", 0, await conformanceOnReal(context, run.signal));
  else await run.all(testOptions(context.args, () => randomInt(SEED_LIMIT)));
  return run.end();
}

class TestRun {
  readonly signal = interrupted();
  private readonly context: CommandContext;
  private readonly total = emptyReport();
  private readonly stages: RunStage[] = [];
  private seed = 0;

  constructor(context: CommandContext) {
    this.context = context;
  }

  private get place(): TestPlace {
    return { root: this.context.root, signal: this.signal };
  }

  async all(options: TestOptions): Promise<void> {
    const { root, write } = this.context;
    this.seed = options.seed;
    rmSync(join(root, ".torpor/failures"), { recursive: true, force: true });
    write(`seed: ${options.seed}`);
    if (options.stress !== undefined) return await this.stress({ ...options, ...options.stress });
    // The build waits for the network and the disk as long as for a processor, so the first stages
    // run beside it.
    const image = options.layers.some((layer) => BOOTS_VMS.has(layer)) ? this.image() : undefined;
    if (options.isVerified) await this.verify();
    for (const layer of options.layers) {
      if (BOOTS_VMS.has(layer) && (await image) === false) return;
      const result = await runLayer(this.place, layer, options);
      this.add(layer, result.seconds, result.report);
      if (layer === "vm" && isWhole(options)) this.checkCompatibility(result);
    }
    if (options.layers.length === LAYERS.length && isWhole(options)) this.checkScenarios();
    if (options.isExhaustive && options.isVerified && isWhole(options)) await this.mutate();
  }

  add(name: string, seconds: number, report: TestReport): void {
    const { passed, failed, skipped, files } = report;
    addReport(this.total, report);
    this.stages.push({ name, seconds, passed, failed, skipped });
    keepTimes(files);
    this.context.write(
      `tests: ${name}: ${passed} passed, ${failed} failed, ${skipped} skipped (${seconds.toFixed(1)} s)`,
    );
  }

  end(): number {
    for (const line of summaryOf(this.stages, this.total, this.seed)) this.context.write(line);
    return this.total.failed === 0 ? 0 : 1;
  }

  /** Returns false when the image could not be built, which counts as a failure. */
  private async image(): Promise<boolean> {
    const startedAt = performance.now();
    try {
      await buildImage(this.context, this.signal);
      this.context.write(`image: ready (${secondsSince(startedAt).toFixed(1)} s)`);
      return true;
    } catch (error) {
      this.addCheck("image", messageOf(error));
      return false;
    }
  }

  private async verify(): Promise<void> {
    for (const check of CHECKS) {
      const startedAt = performance.now();
      const { report, output } = await runCheck(this.place, check);
      if (output !== "") this.context.write(output);
      this.add(`check: ${check.name}`, secondsSince(startedAt), report);
    }
  }

  private async stress(stress: Stress): Promise<void> {
    const startedAt = performance.now();
    const report = await runStress(this.place, stress, this.seed, this.context.write);
    this.add("stress", secondsSince(startedAt), report);
  }

  /** Each broken rule that a test detects counts as a passed test. */
  private async mutate(): Promise<void> {
    const startedAt = performance.now();
    const report = await runMutations(this.place);
    this.add("mutations", secondsSince(startedAt), report);
  }

  /** Counts one test: the ordinary run covers each acceptance scenario. */
  private checkScenarios(): void {
    const unheld = unheldScenarios(this.total);
    const what = `only tests tagged exhaustive hold ${unheld.join(", ")}: leave one of them untagged`;
    this.addCheck("ordinary run", unheld.length === 0 ? undefined : what);
  }

  private addCheck(name: string, problem: string | undefined): void {
    const failed = { failed: 1, failures: [`check: ${name}: ${problem}`] };
    const outcome = problem === undefined ? { passed: 1 } : failed;
    this.add(`check: ${name}`, 0, { ...emptyReport(), ...outcome });
  }

  /** The check of the table in the docs counts as one test. */
  private checkCompatibility({ vitestReport }: LayerResult): void {
    const isThere = existsSync(vitestReport);
    const stale = isThere
      ? staleCompatibility(vitestReport)
      : "the tests of the clients did not run";
    this.addCheck("compatibility", stale);
  }
}

const secondsSince = (startedAt: number) => (performance.now() - startedAt) / 1000;

/** True if every file of a layer runs. */
function isWhole({ shard, changedSince }: TestOptions): boolean {
  return shard === undefined && changedSince === undefined;
}
