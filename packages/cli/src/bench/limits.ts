/**
 * What placement has to keep (docs/placement.md), and whether a run of the benchmark kept it. Time
 * is the processor time of this process: it says the same on a machine that others use too.
 */
import {
  DEFAULT_PLACEMENT_POLICY,
  PLACEMENT_POLICIES,
  type PlacementPolicy,
} from "@torpor/placement";
import type { Locality } from "./locality.ts";
import type { Packing } from "./packing.ts";
import type { Speed } from "./speed.ts";
import { WORKLOADS, type WorkloadName } from "./workload.ts";

export interface PolicyResult {
  policy: PlacementPolicy;
  speed: Speed;
  locality: Locality;
  packing: (Packing & { workload: WorkloadName })[];
}

export interface LimitVerdict {
  policy: PlacementPolicy;
  /** What was measured, with its unit. */
  what: string;
  measured: number;
  atLeast?: number;
  atMost?: number;
  isMet: boolean;
}

const P99_CPU_US = 1_000;
const PER_CPU_SECOND = 20_000;
/** Of hosts used, over what no packing is below. */
const PACKING_RATIO = 1.05;
const LOCAL_RESUMES = 0.98;

/** Each limit for each policy that it binds. What was not measured is not met. */
export function checkLimits(results: readonly PolicyResult[]): LimitVerdict[] {
  const of = (policy: PlacementPolicy) => results.find((result) => result.policy === policy);
  const speeds = PLACEMENT_POLICIES.flatMap((policy) => [
    atMost(
      policy,
      "µs of processor time for 99 of 100 decisions",
      of(policy)?.speed.p99CpuUs,
      P99_CPU_US,
    ),
    atLeast(
      policy,
      "decisions per second of processor time",
      of(policy)?.speed.perCpuSecond,
      PER_CPU_SECOND,
    ),
  ]);
  const packed = WORKLOADS.map((workload) => {
    const ratio = of("binpack")?.packing.find((one) => one.workload === workload)?.ratio;
    return atMost("binpack", `hosts used over the bound, ${workload}`, ratio, PACKING_RATIO);
  });
  const local = of(DEFAULT_PLACEMENT_POLICY)?.locality.local;
  return [
    ...speeds,
    ...packed,
    atLeast(
      DEFAULT_PLACEMENT_POLICY,
      "share of resumes that are local, at 70 % load",
      local,
      LOCAL_RESUMES,
    ),
  ];
}

function atLeast(
  policy: PlacementPolicy,
  what: string,
  measured = Number.NaN,
  limit: number,
): LimitVerdict {
  return { policy, what, measured, atLeast: limit, isMet: measured >= limit };
}

function atMost(
  policy: PlacementPolicy,
  what: string,
  measured = Number.NaN,
  limit: number,
): LimitVerdict {
  return { policy, what, measured, atMost: limit, isMet: measured <= limit };
}
