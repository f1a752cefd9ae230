/** The durations of the lifecycle of real virtual machines, beside the VMM by itself. */
import type { BenchResult } from "../report/result.ts";
import { median } from "../median.ts";

export const STEPS = [
  "create",
  "pause",
  "raw load",
  "raw save",
  "resume",
  "stop",
  "start",
] as const;
export type StepName = (typeof STEPS)[number];

/** One repetition of a step. */
export interface StageSample {
  ms: number;
  /** In order. The stages need not add up: concurrent work of a host is reported for each stage. */
  stages: Record<string, number>;
  /** Processor time of the host's agent. */
  agentCpuMs?: number;
}

export interface LifecycleStep {
  name: StepName;
  count: number;
  p50Ms: number;
  worstMs: number;
  /** Median per stage. */
  stagesMs: Record<string, number>;
  agentCpuMs?: number;
}

export interface Crowd {
  creates: number;
  running: number;
  /** Responses that made a client send its request again. */
  told: number;
  /** Failed creates by reason. */
  failed: Record<string, number>;
  /** Time until every create ran or had failed. */
  ms: number;
}

export interface LifecycleTarget {
  what: string;
  measured: number;
  atMost: number;
}

export interface LifecycleResult extends Omit<BenchResult, "steps"> {
  steps: LifecycleStep[];
  targets: LifecycleTarget[];
  crowd?: Crowd;
}

const MAX_RATIO = 1.15;
const MAX_CREATE_MS = 1_500;

export function stepsOf(
  samples: Readonly<Record<StepName, readonly StageSample[]>>,
): LifecycleStep[] {
  return STEPS.filter((name) => samples[name].length > 0).map((name) =>
    stepOf(name, samples[name]),
  );
}

function stepOf(name: StepName, samples: readonly StageSample[]): LifecycleStep {
  const stages = [...new Set(samples.flatMap((sample) => Object.keys(sample.stages)))];
  const cpu = samples.flatMap(({ agentCpuMs }) => agentCpuMs ?? []);
  return {
    name,
    count: samples.length,
    p50Ms: median(samples.map(({ ms }) => ms)),
    worstMs: Math.max(...samples.map(({ ms }) => ms)),
    stagesMs: Object.fromEntries(
      stages.map((stage) => [
        stage,
        median(samples.flatMap((sample) => sample.stages[stage] ?? [])),
      ]),
    ),
    // A tick is 10 ms, so the mean of several is more precise than the median.
    ...(cpu.length === 0 ? {} : { agentCpuMs: cpu.reduce((sum, ms) => sum + ms, 0) / cpu.length }),
  };
}

/**
 * Stages of the guest itself: in an emulated guest, they take many times longer than all others.
 */
const GUEST_STAGES: ReadonlySet<string> = new Set(["freeze_and_sync", "greet_guest"]);

export interface Beside {
  name: StepName;
  p50Ms: number;
  rawMs: number;
  ratio: number;
  /** Ratio without the stages in which the host waits for the guest. */
  hostRatio: number;
}

/** Pause and resume, relative to the VMM by itself. */
export function besideRaw(steps: readonly LifecycleStep[]): Beside[] {
  const pairs = [
    ["pause", "raw save"],
    ["resume", "raw load"],
  ] as const;
  return pairs.flatMap(([name, rawName]) => {
    const step = steps.find((one) => one.name === name);
    const raw = steps.find((one) => one.name === rawName);
    if (step === undefined || raw === undefined) return [];
    const guestMs = Object.entries(step.stagesMs)
      .filter(([stage]) => GUEST_STAGES.has(stage))
      .reduce((sum, [, ms]) => sum + ms, 0);
    const { p50Ms } = step;
    const hostRatio = (p50Ms - guestMs) / raw.p50Ms;
    return [{ name, p50Ms, rawMs: raw.p50Ms, ratio: p50Ms / raw.p50Ms, hostRatio }];
  });
}

/** Targets of the steps that this run has. */
export function targetsOf(steps: readonly LifecycleStep[]): LifecycleTarget[] {
  const ratio = (name: StepName) =>
    besideRaw(steps).find((one) => one.name === name)?.ratio ?? Number.NaN;
  const createMs = steps.find(({ name }) => name === "create")?.p50Ms ?? Number.NaN;
  const all = [
    {
      what: "pause, to the VMM's own save",
      measured: ratio("pause"),
      atMost: MAX_RATIO,
    },
    {
      what: "resume, to the VMM's own load",
      measured: ratio("resume"),
      atMost: MAX_RATIO,
    },
    { what: "create to first command, ms", measured: createMs, atMost: MAX_CREATE_MS },
  ];
  return all.filter(({ measured }) => Number.isFinite(measured));
}
