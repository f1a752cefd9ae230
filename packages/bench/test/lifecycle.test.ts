import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { sampleOf } from "../src/lifecycle/operations.ts";
import { compareLifecycle, lifecycleRows, plotLifecycle } from "../src/lifecycle/report.ts";
import {
  type LifecycleResult,
  type StageSample,
  stepsOf,
  targetsOf,
} from "../src/lifecycle/result.ts";
import { readLifecycle } from "../src/report/read.ts";

const times = { createdAt: 1_010, startedAt: 1_015, endedAt: 1_100 };
const sampled = sampleOf(
  { sentAt: 1_000, answeredAt: 1_104 },
  { ...times, timingsMs: { end_vmm: 10, save_memory: 50, freeze_and_sync: 20 } },
);

test("the time of an operation is told by where it went, in the order in which it went there", () => {
  expect(sampled.ms).toBe(104);
  expect(Object.entries(sampled.stages)).toEqual([
    ["accept", 10],
    ["begin", 5],
    ["freeze_and_sync", 20],
    ["save_memory", 50],
    ["end_vmm", 10],
    ["to and fro", 5],
    ["answer", 4],
  ]);
});

const sample = (ms: number, stages: Record<string, number> = {}): StageSample => ({ ms, stages });
const steps = stepsOf({
  create: [sample(900), sample(2_000), sample(1_400)],
  pause: [{ ...sample(130, { freeze_and_sync: 20 }), agentCpuMs: 10 }],
  "raw load": [sample(200)],
  "raw save": [sample(100)],
  resume: [sample(220, { greet_guest: 30 })],
  stop: [],
  start: [],
});
const result: LifecycleResult = {
  format: 1,
  benchmark: "lifecycle",
  measuredAt: "2026-01-02T03:04:05.678Z",
  machine: { cpus: 2, model: "A", memoryMib: 4_096, node: "v24.0.0" },
  settings: { rounds: 3 },
  steps,
  targets: targetsOf(steps),
  crowd: { creates: 20, running: 19, told: 3, failed: { "409 OPERATION_FAILED": 1 }, ms: 12_340 },
};

test("medians count, pause and resume beside the VMM by itself", () => {
  expect(steps.map(({ name, p50Ms }) => [name, p50Ms])).toEqual([
    ["create", 1_400],
    ["pause", 130],
    ["raw load", 200],
    ["raw save", 100],
    ["resume", 220],
  ]);
  const tables = new Map(lifecycleRows(result).map(({ title, rows }) => [title, rows]));
  expect(tables.get("Beside the VMM by itself")).toEqual([
    ["pause", "130", "100", "1.30", "1.10"],
    ["resume", "220", "200", "1.10", "0.95"],
  ]);
  expect(tables.get("Targets")?.map(([isMet]) => isMet)).toEqual(["missed", "met", "met"]);
  expect(tables.get("Creates at once")).toEqual([
    ["20", "19", "12.3 s", "3", "1 × 409 OPERATION_FAILED"],
  ]);
});

test("an earlier result is read from its file, and compared by step and stage", async () => {
  const dir = await mkdtemp(join(tmpdir(), "torpor-"));
  onTestFinished(() => rm(dir, { recursive: true }));
  await writeFile(join(dir, "before.json"), JSON.stringify(result));
  const before = await readLifecycle(join(dir, "before.json"));
  const faster = steps.map((step) =>
    step.name === "pause" ? { ...step, p50Ms: 65, stagesMs: { freeze_and_sync: 10 } } : step,
  );
  const { rows } = compareLifecycle({ steps: faster }, before);
  expect(rows.filter(([step]) => step === "pause")).toEqual([["pause", "", "0.50", "1.00"]]);
  expect(rows.filter(([, stage]) => stage === "freeze_and_sync")).toEqual([
    ["", "freeze_and_sync", "0.50", ""],
  ]);
  await writeFile(join(dir, "other.json"), JSON.stringify({ ...result, benchmark: "scale" }));
  await expect(readLifecycle(join(dir, "other.json"))).rejects.toThrow('is of "scale"');
});

test("its picture has a bar for each step", () => {
  const svg = plotLifecycle(result);
  for (const { name } of steps) expect(svg).toContain(`>${name}</text>`);
});
