import { PLACEMENT_POLICIES } from "@torpor/placement";
import { expect, test } from "vitest";
import { checkLimits, type PolicyResult } from "../src/bench/limits.ts";
import { WORKLOADS } from "../src/bench/workload.ts";
import { report } from "../src/commands/bench.ts";

/** Every limit met exactly. */
function results(): PolicyResult[] {
  const speed = {
    perSecond: 1,
    perCpuSecond: 20_000,
    p50Us: 1,
    p99Us: 5_000,
    worstUs: 9_000,
    p99CpuUs: 1_000,
  };
  return PLACEMENT_POLICIES.map((policy) => ({
    policy,
    speed: { ...speed },
    locality: { local: policy === "local-first" ? 0.98 : 0, refused: 0 },
    packing: WORKLOADS.map((workload) => ({
      workload,
      used: 1,
      bound: 1,
      ratio: policy === "binpack" ? 1.05 : 1.25,
      filled: 1,
    })),
  }));
}
const at = (all: PolicyResult[], policy: string): PolicyResult => {
  const found = all.find((result) => result.policy === policy);
  if (found === undefined) throw new Error(`there is no ${policy}`);
  return found;
};
const lines = (given: PolicyResult[], options: { check: boolean; json: boolean }) => {
  const written: string[] = [];
  const code = report({ hosts: 1_000, seed: 1, decisions: 1, results: given }, options, (line) =>
    written.push(line),
  );
  return { code, text: written.join("\n") };
};

test("limits that are just met are met; how long others on the machine kept it waiting does not count", () => {
  const verdicts = checkLimits(results());
  expect(verdicts.filter(({ isMet }) => !isMet)).toEqual([]);
  expect(verdicts).toHaveLength(2 * PLACEMENT_POLICIES.length + WORKLOADS.length + 1);
});

test.each<[string, (all: PolicyResult[]) => void, object]>([
  [
    "a slow decision in a hundred",
    (all) => (at(all, "spread").speed.p99CpuUs = 1_001),
    { policy: "spread", atMost: 1_000 },
  ],
  [
    "too few decisions",
    (all) => (at(all, "binpack").speed.perCpuSecond = 19_999),
    { policy: "binpack", atLeast: 20_000 },
  ],
  [
    "loose packing of one workload",
    (all) => Object.assign(at(all, "binpack").packing.at(-1) ?? {}, { ratio: 1.051 }),
    { policy: "binpack", what: expect.stringContaining(WORKLOADS.at(-1) ?? "none"), atMost: 1.05 },
  ],
  [
    "resumes that go elsewhere",
    (all) => (at(all, "local-first").locality.local = 0.979),
    { policy: "local-first", atLeast: 0.98 },
  ],
  [
    "a number that is none",
    (all) => (at(all, "local-first").locality.local = Number.NaN),
    { policy: "local-first", measured: Number.NaN },
  ],
  [
    "a workload that was not measured",
    (all) => void at(all, "binpack").packing.shift(),
    { policy: "binpack", measured: Number.NaN },
  ],
])("%s is a limit missed, and that one alone: exit code 1", (_, spoil, missed) => {
  const given = results();
  spoil(given);
  expect(checkLimits(given).filter(({ isMet }) => !isMet)).toMatchObject([missed]);
  const { code, text } = lines(given, { check: true, json: false });
  expect(code).toBe(1);
  expect(text.match(/^missed .*$/gm)).toHaveLength(1);
  expect(lines(given, { check: true, json: true }).code).toBe(1);
  expect(lines(given, { check: false, json: false }).code, "nobody asked").toBe(0);
});

test("met limits are exit code 0, said one by one, for programs too", () => {
  const { code, text } = lines(results(), { check: true, json: false });
  expect(code).toBe(0);
  expect(text).toMatch(/^met +local-first .*0\.98/m);
  expect(text).toMatch(/processor time/);
  const json = lines(results(), { check: true, json: true });
  expect(json.code).toBe(0);
  expect(JSON.parse(json.text)).toMatchObject({ hosts: 1_000, limits: checkLimits(results()) });
  expect(JSON.parse(lines(results(), { check: false, json: true }).text)).not.toHaveProperty(
    "limits",
  );
});
