/** What a benchmark has measured, as it is kept in a file. */
import type { DatabaseCounters } from "../measure/counters.ts";
import type { Latency } from "./latency.ts";

/** A table for people. */
export interface Rows {
  title: string;
  head: string[];
  rows: string[][];
}

export const RESULT_FORMAT = 1;

export interface BenchResult {
  format: typeof RESULT_FORMAT;
  benchmark: string;
  measuredAt: string;
  /** Of the checkout; absent: git does not know. */
  commit?: string;
  machine: BenchMachine;
  settings: Record<string, string | number | boolean>;
  steps: StepResult[];
}

/** Of a unit: `requests`, but `MiB`. */
export const several = (unit: string) => (unit === "MiB" ? unit : `${unit}s`);

export interface BenchMachine {
  cpus: number;
  model: string;
  memoryMib: number;
  node: string;
}

export interface StepResult {
  /** Unique in a result: by it, two results are compared. */
  name: string;
  /** What is counted, in the singular: `transition`. */
  unit: string;
  /** 0: nobody asked for anything. */
  clients: number;
  seconds: number;
  count: number;
  perSecond: number;
  /** By kind of request; `all` where there are several. */
  latencies: Record<string, Latency>;
  /** Why requests failed, and how many. */
  failed: Record<string, number>;
  /** Of one processor, in percent, by part. */
  cpuPercent: Record<string, number>;
  /** Undefined where nothing was counted that could be divided by. */
  cpuMsPerUnit?: Record<string, number>;
  /** Resident, of all processes of a part but Postgres, at the end of the step. */
  memoryMib: Record<string, number>;
  countersPerSecond: DatabaseCounters;
  countersPerUnit?: DatabaseCounters;
  /** By program. Absent: not counted in this step. */
  statementsPerSecond?: Record<string, number>;
  statementsPerUnit?: Record<string, number>;
  /** What this kind of step alone has. */
  extra?: Record<string, number>;
}
