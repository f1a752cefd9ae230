/**
 * The limits that placement must meet (docs/placement.md), and whether a benchmark run met them.
 * Times are processor time of this process, which other load on the machine does not change.
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
  /** The measured quantity, with its unit. */
  what: string;
  measured: number;
  atLeast?: number;
  atMost?: number;
  isMet: boolean;
}

const P99_CPU_US = 1_000;
const PER_CPU_SECOND = 20_000;
/** Used hosts, divided by the lower bound of any packing. */
const PACKING_RATIO = 1.05;
const LOCAL_RESUMES = 0.98;

/**
 * Checks each limit for each policy to which it applies. A missing measurement counts as a missed
 * limit.
 */
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
