/** A lifecycle result for people: as tables, beside an earlier one, and as a picture. */
import { type Bar, color, draw, short } from "../report/plot.ts";
import type { EarlierLifecycle } from "../report/read.ts";
import type { Rows } from "../report/result.ts";
import {
  besideRaw,
  type Crowd,
  type LifecycleResult,
  type LifecycleStep,
  type LifecycleTarget,
} from "./result.ts";

const COLORS = 6;

export function lifecycleRows({ steps, targets, crowd }: LifecycleResult): Rows[] {
  return [
    took(steps),
    stages(steps),
    beside(steps),
    met(targets),
    ...(crowd === undefined ? [] : [together(crowd)]),
  ];
}

function took(steps: readonly LifecycleStep[]): Rows {
  const rows = steps.map(({ name, count, p50Ms, worstMs, agentCpuMs }) => [
    name,
    String(count),
    short(p50Ms),
    short(worstMs),
    agentCpuMs === undefined ? "-" : short(agentCpuMs),
  ]);
  const head = ["STEP", "TIMES", "P50 MS", "WORST", "AGENT'S CPU MS"];
  return {
    title: "From the request to the answer; create: to the end of its first command",
    head,
    rows,
  };
}

function stages(steps: readonly LifecycleStep[]): Rows {
  const rows = steps.flatMap(({ name, stagesMs, p50Ms }) =>
    Object.entries(stagesMs).map(([stage, ms], at) => [
      at === 0 ? name : "",
      stage,
      short(ms),
      `${((ms / p50Ms) * 100).toFixed(0)} %`,
    ]),
  );
  return { title: "Where it went, medians", head: ["STEP", "STAGE", "MS", "OF P50"], rows };
}

function beside(steps: readonly LifecycleStep[]): Rows {
  const rows = besideRaw(steps).map(({ name, p50Ms, rawMs, ratio, hostRatio }) => [
    name,
    short(p50Ms),
    short(rawMs),
    ratio.toFixed(2),
    hostRatio.toFixed(2),
  ]);
  const head = ["STEP", "P50 MS", "VMM BY ITSELF", "RATIO", "WITHOUT THE GUEST'S PART"];
  return { title: "Beside the VMM by itself", head, rows };
}

function met(targets: readonly LifecycleTarget[]): Rows {
  const rows = targets.map(({ what, measured, atMost }) => [
    measured <= atMost ? "met" : "missed",
    what,
    short(measured),
    String(atMost),
  ]);
  return { title: "Targets", head: ["", "WHAT", "MEASURED", "AT MOST"], rows };
}

function together({ creates, running, told, failed, ms }: Crowd): Rows {
  const failures = Object.entries(failed).map(([why, count]) => `${count} × ${why}`);
  const rows = [
    [
      String(creates),
      String(running),
      `${(ms / 1_000).toFixed(1)} s`,
      String(told),
      failures.join(", ") || "0",
    ],
  ];
  const head = ["CREATES", "RUN", "AFTER", "TOLD TO COME AGAIN", "FAILED"];
  return { title: "Creates at once", head, rows };
}

/** Ratios of new to old, for the steps and stages that both have; less is better. */
export function compareLifecycle(now: EarlierLifecycle, before: EarlierLifecycle): Rows {
  const rows = now.steps.flatMap((step) => {
    const earlier = before.steps.find(({ name }) => name === step.name);
    if (earlier === undefined) return [];
    const of = (value?: number, old?: number) =>
      value === undefined || old === undefined || !(old > 0) ? "-" : (value / old).toFixed(2);
    const parts = Object.entries(step.stagesMs).flatMap(([stage, ms]) =>
      earlier.stagesMs[stage] === undefined
        ? []
        : [["", stage, of(ms, earlier.stagesMs[stage]), ""]],
    );
    const whole = [of(step.p50Ms, earlier.p50Ms), of(step.agentCpuMs, earlier.agentCpuMs)];
    return [[step.name, "", ...whole], ...parts];
  });
  return {
    title: "New to old (less is better)",
    head: ["STEP", "STAGE", "P50", "AGENT'S CPU"],
    rows,
  };
}

/** One bar per step, divided into its stages. */
export function plotLifecycle(result: LifecycleResult): string {
  const names = [...new Set(result.steps.flatMap(({ stagesMs }) => Object.keys(stagesMs)))];
  const bars = result.steps.map(({ name, stagesMs, p50Ms }): Bar => {
    const parts = Object.entries(stagesMs).map(([stage, ms]) => ({
      value: Math.max(0, ms),
      color: color(names.indexOf(stage) % COLORS),
    }));
    return { label: name, parts, text: `${short(p50Ms)} ms` };
  });
  const title = "Milliseconds, by stage in the order of the table";
  return draw(result, [{ title, isLogarithmic: false, bars, legend: [] }]);
}
