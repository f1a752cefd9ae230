/**
 * `torpor bench placement [--check] [--json] [--hosts N] [--seed N]`: the claims of
 * docs/placement.md, measured on this machine. The command starts nothing and touches no fleet.
 */
import { parseArgs } from "node:util";
import { PLACEMENT_POLICIES } from "@torpor/placement";
import { checkLimits, type PolicyResult, type LimitVerdict } from "../bench/limits.ts";
import { measureLocality } from "../bench/locality.ts";
import { measurePacking } from "../bench/packing.ts";
import { measureSpeed } from "../bench/speed.ts";
import { WORKLOADS } from "../bench/workload.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import { table } from "../table.ts";
import { benchControlPlane } from "./bench-control-plane.ts";
import { benchCrowd } from "./bench-crowd.ts";
import { benchDataPlane } from "./bench-data-plane.ts";
import { benchGuest } from "./bench-guest.ts";
import { benchLifecycle } from "./bench-lifecycle.ts";
import { benchPeers } from "./bench-peers.ts";
import { benchScale } from "./bench-scale.ts";
import { benchSoak } from "./bench-soak.ts";
import { benchStrangers } from "./bench-strangers.ts";

const DECISIONS = 100_000;
const RESUMES = 100_000;

const OTHERS: Readonly<Record<string, (context: CommandContext) => Promise<number>>> = {
  "control-plane": benchControlPlane,
  scale: benchScale,
  "data-plane": benchDataPlane,
  soak: benchSoak,
  peers: benchPeers,
  crowd: benchCrowd,
  strangers: benchStrangers,
  guest: benchGuest,
  lifecycle: benchLifecycle,
};

export async function bench(context: CommandContext): Promise<number> {
  const [what = "", ...args] = context.args;
  const other = OTHERS[what];
  return other === undefined ? benchPlacement(context) : await other({ ...context, args });
}

function benchPlacement({ args, write }: CommandContext): number {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      check: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      hosts: { type: "string", default: "1000" },
      seed: { type: "string", default: "1" },
    },
  });
  if (positionals.length !== 1 || positionals[0] !== "placement")
    throw new Error(
      `say what to measure: ./torpor bench placement, ${Object.keys(OTHERS).join(", ")}, not "${positionals.join(" ")}"`,
    );
  const hosts = numberFrom("--hosts", values.hosts, 10, 20_000);
  const seed = numberFrom("--seed", values.seed, 0, 2 ** 32 - 1);
  const results = PLACEMENT_POLICIES.map((policy) => ({
    policy,
    speed: measureSpeed(policy, { hosts, decisions: DECISIONS, seed }),
    locality: measureLocality(policy, { hosts: Math.ceil(hosts / 5), resumes: RESUMES, seed }),
    packing: WORKLOADS.map((workload) => ({
      workload,
      ...measurePacking(policy, workload, { hosts, seed }),
    })),
  }));
  return report({ hosts, seed, decisions: DECISIONS, results }, values, write);
}

interface Measured {
  hosts: number;
  seed: number;
  decisions: number;
  results: PolicyResult[];
}

/** Returns the exit code: 1 if a checked limit is missed. */
export function report(
  measured: Measured,
  { check, json }: { check: boolean; json: boolean },
  write: (line: string) => void,
): number {
  const { hosts, seed, decisions, results } = measured;
  const limits = check ? checkLimits(results) : [];
  if (json)
    write(JSON.stringify({ hosts, seed, results, ...(check ? { limits } : {}) }, undefined, 2));
  else {
    write(`Placement over ${hosts} hosts, ${decisions} decisions per policy.`);
    for (const part of [
      speedTable(results),
      packingTable(results),
      ...(check ? [limitTable(limits)] : []),
    ])
      write(`\n${part}`);
  }
  return limits.every(({ isMet }) => isMet) ? 0 : 1;
}

function speedTable(results: PolicyResult[]): string {
  const us = (value: number) => `${value.toFixed(1)} µs`;
  return table(
    [
      "POLICY",
      "DECISIONS/S",
      "PER CPU SECOND",
      "P50",
      "P99",
      "WORST",
      "P99 CPU",
      "LOCAL RESUMES",
      "REFUSED",
    ],
    results.map(({ policy, speed, locality }) => [
      policy,
      String(Math.round(speed.perSecond)),
      String(Math.round(speed.perCpuSecond)),
      us(speed.p50Us),
      us(speed.p99Us),
      us(speed.worstUs),
      us(speed.p99CpuUs),
      locality.local.toFixed(4),
      String(locality.refused),
    ]),
  );
}

const PACKING_INTRODUCTION = `Sandboxes placed as they come, none leaving: hosts used when four fifths of the fleet are needed, against what no packing is below; and how full
the fleet is, by its scarcest resource, when one finds no host for the first time.`;

function packingTable(results: PolicyResult[]): string {
  const rows = results.flatMap(({ policy, packing }) =>
    packing.map((one) => [
      policy,
      one.workload,
      String(one.used),
      String(one.bound),
      one.ratio.toFixed(3),
      one.filled.toFixed(3),
    ]),
  );
  return `${PACKING_INTRODUCTION}\n\n${table(["POLICY", "WORKLOAD", "HOSTS USED", "BOUND", "RATIO", "FILLED"], rows)}`;
}

function limitTable(limits: LimitVerdict[]): string {
  const rows = limits.map(({ isMet, policy, what, measured, atLeast, atMost }) => [
    isMet ? "met" : "missed",
    policy,
    what,
    String(Number(measured.toFixed(4))),
    atLeast === undefined ? `at most ${atMost}` : `at least ${atLeast}`,
  ]);
  return `Limits. Times are processor time of this process: what others on the machine take does not count.\n\n${table(["", "POLICY", "WHAT", "MEASURED", "LIMIT"], rows)}`;
}
