import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { latencyOf } from "../src/report/latency.ts";
import { compare, comparisonRows } from "../src/report/compare.ts";
import { plotOf } from "../src/report/plot.ts";
import { readResult } from "../src/report/read.ts";
import type { BenchResult, StepResult } from "../src/report/result.ts";
import { rowsOf } from "../src/report/rows.ts";

function step(name: string, perSecond: number, given: Partial<StepResult> = {}): StepResult {
  const perUnit = { walFsyncs: 5, walBytes: 10_240, natsStored: 5, natsMessages: 11 };
  const counters = { commits: 24, rollbacks: 0.25, ...perUnit };
  return {
    name,
    unit: "transition",
    clients: 8,
    seconds: 5,
    count: perSecond * 5,
    perSecond,
    latencies: {
      all: latencyOf([10, 20, 30]),
      pause: latencyOf([10]),
      resume: latencyOf([20, 30]),
    },
    failed: {},
    cpuPercent: { gateway: 20, schedulers: 60, postgres: 80, nats: 10, load: 2, "machine idle": 3 },
    cpuMsPerUnit: {
      gateway: 4,
      schedulers: 12,
      postgres: 16,
      nats: 2,
      "bench hosts": 1,
      load: 0.4,
    },
    memoryMib: { gateway: 90, schedulers: 200, nats: 30, "bench hosts": 80 },
    countersPerSecond: counters,
    countersPerUnit: counters,
    statementsPerUnit: { "torpor-gateway": 14, "torpor-scheduler": 36 },
    ...given,
  };
}

const IDLE: StepResult = {
  ...step("idle", 0),
  unit: "second",
  clients: 0,
  latencies: {},
  statementsPerUnit: {},
};
delete IDLE.cpuMsPerUnit;
delete IDLE.countersPerUnit;

const result = (steps: StepResult[]): BenchResult => ({
  format: 1,
  benchmark: "control-plane",
  measuredAt: "2026-01-02T03:04:05.678Z",
  commit: "abc1234",
  machine: { cpus: 2, model: "A <B> & C", memoryMib: 4_096, node: "v24.0.0" },
  settings: { hosts: 20 },
  steps,
});

test("people get what was reached, what it cost, and what it made others do", () => {
  const failing = step("closed-8", 50, { failed: { "pause: 503": 2 }, extra: { asked: 60 } });
  const tables = rowsOf(result([IDLE, failing]));
  const [reached, cost, work] = tables.map(({ rows }) => rows);
  expect(reached).toEqual([
    ["closed-8", "50.0 transitions", "all", "20.0", "30.0", "30.0", "2 × pause: 503; asked 60.0"],
    ["", "", "pause", "10.0", "10.0", "10.0", ""],
    ["", "", "resume", "20.0", "30.0", "30.0", ""],
  ]);
  expect(cost?.[0]?.slice(0, 4)).toEqual(["idle", "of one processor", "170.0 %", "20.0 %"]);
  expect(cost?.[1]?.slice(0, 4)).toEqual(["closed-8", "ms per transition", "34.0", "4.0"]);
  expect(work?.[1]?.slice(0, 5)).toEqual(["closed-8", "per transition", "50.0", "14.0", "36.0"]);
  for (const { head, rows } of tables)
    for (const row of rows) expect(row).toHaveLength(head.length);
});

test("a step that was done both ways is told beside itself, whatever else was measured", () => {
  const perMib = { unit: "MiB", latencies: { upload: latencyOf([4]) } };
  const direct = step("direct-upload", 200, { ...perMib, latencies: { upload: latencyOf([1]) } });
  const both = [IDLE, direct, step("edge-upload", 50, perMib), step("edge-alone", 1)];
  const tables = rowsOf(result(both));
  expect(tables[0]?.rows[0]?.slice(0, 2)).toEqual(["direct-upload", "200 MiB"]);
  expect(tables[1]?.rows).toEqual([
    ["upload", "MiB/s", "200", "50.0", "0.250", "1.00", "4.00", "3.00"],
  ]);
  expect(rowsOf(result([IDLE, direct])).map(({ title }) => title)).not.toContain(tables[1]?.title);
});

test("a comparison is of steps that both have, new to old", () => {
  const before = [IDLE, step("closed-8", 50), step("closed-32", 60)];
  const faster = step("closed-8", 100, {
    latencies: { all: latencyOf([5]) },
    cpuMsPerUnit: { gateway: 17 },
  });
  const compared = compare({ steps: [IDLE, faster, step("closed-1", 1)] }, { steps: before });
  expect(compared.map(({ step: name }) => name)).toEqual(["idle", "closed-8"]);
  expect(compared[0]?.ratios).toMatchObject({ rate: undefined, cpu: 1, statements: undefined });
  expect(compared[1]?.ratios).toMatchObject({ rate: 2, p50: 0.25, cpu: 0.5, statements: 1 });
  expect(comparisonRows(compared).rows[1]?.slice(0, 3)).toEqual(["closed-8", "2.00", "0.25"]);
});

test("a picture shows every step, and nothing in it is taken for markup", () => {
  const svg = plotOf(result([IDLE, step("closed-1", 30), step("closed-8", 300)]));
  expect(svg).toContain("A &lt;B&gt; &amp; C");
  expect(svg).not.toMatch(/NaN|Infinity|undefined/);
  expect(svg.match(/>closed-8</g)).toHaveLength(3);
  const width = (label: string) => {
    const bar = new RegExp(`>${label}</text>\\n<rect [^>]*width="([\\d.]+)"`).exec(svg);
    return Number(bar?.[1]);
  };
  expect(width("closed-8")).toBeGreaterThan(width("closed-1"));
});

test("a file is compared with if it is of the same benchmark", async () => {
  const dir = await mkdtemp(join(tmpdir(), "bench-"));
  onTestFinished(() => rm(dir, { recursive: true }));
  const file = join(dir, "result.json");
  await writeFile(
    file,
    JSON.stringify(result([IDLE, step("closed-8", 50, { latencies: { all: latencyOf([]) } })])),
  );
  const read = await readResult(file, "control-plane");
  expect(compare(read, read)[1]?.ratios).toMatchObject({ rate: 1, p50: undefined });
  await expect(readResult(file, "scale")).rejects.toThrow('is of "control-plane"');
  await writeFile(file, '{"format":1}');
  await expect(readResult(file, "scale")).rejects.toThrow("is no result of a benchmark");
  await expect(readResult(join(dir, "none"), "scale")).rejects.toThrow("cannot be read");
});
