/**
 * The placement benchmarks on the smallest allowed fleet, where the hosts that a sandbox requires
 * are often full.
 */
import { DEFAULT_PLACEMENT_POLICY, PLACEMENT_POLICIES } from "@torpor/placement";
import { expect, test } from "vitest";
import { checkLimits } from "../src/bench/limits.ts";
import { measureLocality } from "../src/bench/locality.ts";
import { measurePacking } from "../src/bench/packing.ts";
import { measureSpeed } from "../src/bench/speed.ts";
import { WORKLOADS } from "../src/bench/workload.ts";

test.each(PLACEMENT_POLICIES)("%s is measured on ten hosts, whatever the seed", (policy) => {
  for (let seed = 1; seed <= 5; seed += 1) {
    const speed = measureSpeed(policy, { hosts: 10, decisions: 3_000, seed });
    for (const measured of Object.values(speed)) expect(measured).toBeGreaterThanOrEqual(0);
    expect(speed.perCpuSecond).toBeGreaterThan(0);
    const { local } = measureLocality(policy, { hosts: 2, resumes: 1_000, seed });
    expect(local).toBeGreaterThan(0);
    const { used, bound } = measurePacking(policy, "mixed", { hosts: 10, seed });
    expect(used).toBeGreaterThanOrEqual(bound);
  }
});

test(
  "over 1,000 hosts the limits of packing and locality are kept, which no machine's speed touches",
  { timeout: 300_000 },
  () => {
    const hosts = 1_000;
    const speed = measureSpeed("binpack", { hosts: 10, decisions: 100, seed: 1 });
    const locality = measureLocality(DEFAULT_PLACEMENT_POLICY, {
      hosts: hosts / 5,
      resumes: 20_000,
      seed: 1,
    });
    const packing = WORKLOADS.map((workload) => ({
      workload,
      ...measurePacking("binpack", workload, { hosts, seed: 1 }),
    }));
    const results = (["binpack", DEFAULT_PLACEMENT_POLICY] as const).map((policy) => ({
      policy,
      speed,
      locality,
      packing,
    }));
    const verdicts = checkLimits(results).filter(({ what }) => !what.includes("processor time"));
    expect(verdicts.length).toBeGreaterThan(WORKLOADS.length);
    expect(verdicts.filter(({ isMet }) => !isMet)).toEqual([]);
  },
);
