/** A result beside an earlier one, as ratios: for rates, more is better; for all else, less. */
import { AGENT, PARTS_THAT_COUNT } from "../measure/cpu.ts";
import type { BenchResult, StepResult } from "./result.ts";
import type { Rows } from "./result.ts";
import { sumOf } from "./rows.ts";

export interface ResultComparison {
  step: string;
  /** New to old; undefined where either has no such number. */
  ratios: Record<Measure, number | undefined>;
}

const MEASURES = {
  rate: (step: StepResult) => (step.clients === 0 ? undefined : step.perSecond),
  p50: (step: StepResult) => first(step)?.p50Ms,
  p99: (step: StepResult) => first(step)?.p99Ms,
  cpu: (step: StepResult) => cpuOf(step),
  statements: (step: StepResult) => sum(step.statementsPerUnit ?? step.statementsPerSecond),
  commits: (step: StepResult) => (step.countersPerUnit ?? step.countersPerSecond).commits,
  "wal fsyncs": (step: StepResult) => (step.countersPerUnit ?? step.countersPerSecond).walFsyncs,
  "nats stored": (step: StepResult) => (step.countersPerUnit ?? step.countersPerSecond).natsStored,
} as const;
type Measure = keyof typeof MEASURES;
const NAMES = Object.keys(MEASURES) as Measure[];

const first = ({ latencies }: StepResult) => Object.values(latencies)[0];
const sum = (values: Record<string, number> | undefined) =>
  values === undefined ? undefined : sumOf(values);

function cpuOf({ cpuMsPerUnit, cpuPercent }: StepResult): number {
  const times = cpuMsPerUnit ?? cpuPercent;
  return [...PARTS_THAT_COUNT, AGENT].reduce((all, part) => all + (times[part] ?? 0), 0);
}

/** Compares the steps that both have. */
export function compare(
  now: Pick<BenchResult, "steps">,
  before: Pick<BenchResult, "steps">,
): ResultComparison[] {
  return now.steps.flatMap((step) => {
    const earlier = before.steps.find(({ name }) => name === step.name);
    if (earlier === undefined) return [];
    const ratios = NAMES.map((name) => [
      name,
      ratio(MEASURES[name](step), MEASURES[name](earlier)),
    ]);
    return [{ step: step.name, ratios: Object.fromEntries(ratios) as ResultComparison["ratios"] }];
  });
}

function ratio(now: number | undefined, before: number | undefined): number | undefined {
  return now === undefined || before === undefined || !(before > 0) ? undefined : now / before;
}

export function comparisonRows(comparisons: readonly ResultComparison[]): Rows {
  const rows = comparisons.map(({ step, ratios }) => [
    step,
    ...NAMES.map((name) => ratios[name]?.toFixed(2) ?? "-"),
  ]);
  const head = ["STEP", ...NAMES.map((name) => name.toUpperCase())];
  return { title: "New to old (the rate: more is better; all else: less)", head, rows };
}
