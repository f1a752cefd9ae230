import { expect, test } from "vitest";
import { statOf, treeMs } from "../src/measure/cpu.ts";
import { countStatements } from "../src/measure/statements.ts";
import { between } from "../src/measure/window.ts";
import { checkOpenFiles, openFilesLimit } from "../src/open-files.ts";

const COUNTERS = {
  commits: 0,
  rollbacks: 0,
  walFsyncs: 0,
  walBytes: 0,
  natsStored: 0,
  natsMessages: 0,
};

test("what a window brought is divided by its own time, and by what was done in it", () => {
  const before = { atMs: 1_000, cpu: { postgres: 500 }, countersAtMs: 900, counters: COUNTERS };
  const counters = { ...COUNTERS, commits: 240 };
  const after = { atMs: 3_000, cpu: { postgres: 1_500 }, countersAtMs: 3_300, counters };
  const measured = between(before, after, 20);
  expect(measured).toMatchObject({
    seconds: 2,
    perSecond: 10,
    cpuPercent: { postgres: 50 },
    cpuMsPerUnit: { postgres: 50 },
    countersPerSecond: { commits: 100 },
    countersPerUnit: { commits: 10 },
  });
  expect(between(before, after, 0)).not.toHaveProperty("countersPerUnit");
});

test("statements are counted by program, whatever protocol they came by, and not our own", () => {
  const log = [
    "bench|torpor-gateway|LOG:  statement: begin",
    "bench|torpor-gateway|LOG:  execute <unnamed>: SELECT 1,",
    "\t  'bench|torpor-gateway|'",
    "bench|torpor-scheduler|LOG:  execute s1: UPDATE hosts",
    "bench|torpor-scheduler|ERROR:  duplicate key value",
    "bench|torpor-scheduler|STATEMENT:  INSERT INTO operations",
    "bench|torpor-bench|LOG:  statement: SELECT pg_reload_conf()",
    "bench||LOG:  checkpoint starting: time",
  ].join("\n");
  expect(countStatements(log)).toEqual({ "torpor-gateway": 2, "torpor-scheduler": 1 });
});

test("this process has used processor time, and one that is not there none", () => {
  const stat = statOf(process.pid);
  expect(stat).toMatchObject({ ppid: process.ppid });
  expect(treeMs(process.pid)).toBeGreaterThan(0);
  expect(statOf("no-such-process")).toBeUndefined();
});

test("too few open files are refused with what to say instead", () => {
  const limits =
    "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096  files";
  expect(openFilesLimit(limits)).toBe(1_024);
  expect(openFilesLimit("Max open files            unlimited unlimited files")).toBe(Infinity);
  expect(() => checkOpenFiles(500, 1_024)).not.toThrow();
  expect(() => checkOpenFiles(1_000, 1_024)).toThrow('say "ulimit -n 1512" before it');
});
