/** The measures themselves, on the smallest fleet that may be asked for: a host with what a sandbox wants is often full there. */
import { PLACEMENT_POLICIES } from "@torpor/placement";
import { expect, test } from "vitest";
import { measureLocality } from "../src/bench/locality.ts";
import { measurePacking } from "../src/bench/packing.ts";
import { measureSpeed } from "../src/bench/speed.ts";

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
