/** A result as tables for people: rates, cost, and the work that it caused. */
import { IDLE, OTHERS, PARTS_THAT_COUNT, PARTS_TOLD } from "../measure/cpu.ts";
import { edgeRows } from "./edge.ts";
import { type BenchResult, type Rows, several, type StepResult } from "./result.ts";

/** The parts that the benchmark's fleet has. */
const partsOf = (steps: readonly StepResult[]) =>
  PARTS_TOLD.filter((part) => steps.some(({ cpuPercent }) => cpuPercent[part] !== undefined));

export function rowsOf({ steps }: Pick<BenchResult, "steps">): Rows[] {
  return [reached(steps), edgeRows(steps), cost(steps), work(steps), memory(steps)].filter(
    ({ rows }) => rows.length > 0,
  );
}

function reached(steps: StepResult[]): Rows {
  const rows = steps
    .filter(({ clients }) => clients > 0)
    .flatMap((step) =>
      Object.entries(step.latencies).map(([kind, latency], at) => [
        at === 0 ? step.name : "",
        at === 0 ? `${rate(step.perSecond)} ${several(step.unit)}` : "",
        kind,
        ...[latency.p50Ms, latency.p99Ms, latency.worstMs].map(millis),
        at === 0 ? failures(step) : "",
      ]),
    );
  const head = ["STEP", "PER SECOND", "REQUEST", "P50 MS", "P99 MS", "WORST", "FAILED"];
  return { title: "Reached", head, rows };
}

function failures({ failed, extra = {} }: StepResult): string {
  const others = Object.entries(extra).map(([name, value]) => `${name} ${rate(value)}`);
  const kinds = Object.entries(failed).map(([why, count]) => `${count} × ${why}`);
  return [kinds.length === 0 ? "0" : kinds.join(", "), ...others].join("; ");
}

/** Processor time per unit; for an idle fleet, percent of one processor. */
function cost(steps: StepResult[]): Rows {
  const told = partsOf(steps);
  const rows = steps.map((step) => {
    const { cpuMsPerUnit: perUnit, cpuPercent: percent } = step;
    const of = (part: string) =>
      perUnit === undefined ? `${(percent[part] ?? 0).toFixed(1)} %` : millis(perUnit[part] ?? 0);
    const times = perUnit ?? percent;
    const sum = PARTS_THAT_COUNT.reduce((all, part) => all + (times[part] ?? 0), 0);
    const whole = perUnit === undefined ? `${sum.toFixed(1)} %` : millis(sum);
    const what = perUnit === undefined ? "of one processor" : `ms per ${step.unit}`;
    const rest = [OTHERS, IDLE].map((name) => `${(percent[name] ?? 0).toFixed(0)} %`);
    return [step.name, what, whole, ...told.map(of), ...rest];
  });
  const parts = told.map((part) => part.toUpperCase());
  const head = ["STEP", "", "CONTROL PLANE", ...parts, "OTHERS", "IDLE"];
  return { title: "Processor time", head, rows };
}

/** Counters per unit; for an idle fleet, per second. */
function work(steps: StepResult[]): Rows {
  const rows = steps.map((step) => {
    const counters = step.countersPerUnit ?? step.countersPerSecond;
    const statements = step.statementsPerUnit ?? step.statementsPerSecond;
    const sum = statements === undefined ? undefined : sumOf(statements);
    const of = (name: string) =>
      few(statements?.[name] ?? (statements === undefined ? undefined : 0));
    return [
      step.name,
      `per ${step.unit}`,
      few(sum),
      of("torpor-gateway"),
      of("torpor-scheduler"),
      few(counters.commits),
      few(counters.rollbacks),
      few(counters.walFsyncs),
      few(counters.walBytes / 1_024),
      few(counters.natsStored),
      few(counters.natsMessages),
    ];
  });
  const statements = ["STATEMENTS", "GATEWAY", "SCHEDULERS"];
  const database = ["COMMITS", "ROLLBACKS", "WAL FSYNCS", "WAL KIB"];
  const head = ["STEP", "", ...statements, ...database, "NATS STORED", "NATS MESSAGES"];
  return { title: "Work, that of the fleet's background included", head, rows };
}

function memory(steps: StepResult[]): Rows {
  const parts = PARTS_TOLD.filter((part) =>
    steps.some(({ memoryMib }) => memoryMib[part] !== undefined),
  );
  const rows = steps.map(({ name, memoryMib }) => [
    name,
    ...parts.map((part) => (memoryMib[part] ?? 0).toFixed(0)),
  ]);
  const head = ["STEP", ...parts.map((part) => part.toUpperCase())];
  return { title: "Resident memory, MiB", head, rows };
}

export const sumOf = (values: Record<string, number>) =>
  Object.values(values).reduce((sum, value) => sum + value, 0);

const few = (value: number | undefined) => (value === undefined ? "-" : value.toFixed(1));
const rate = (value: number) => value.toFixed(value < 100 ? 1 : 0);
const millis = (value: number) => value.toFixed(value < 1 ? 2 : 1);
