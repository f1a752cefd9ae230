/** A benchmark's result, as kept in a file. */
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
  /** Commit of the checkout; absent if git does not know it. */
  commit?: string;
  machine: BenchMachine;
  settings: Record<string, string | number | boolean>;
  steps: StepResult[];
}

/** Plural of a unit: `requests`, but `MiB`. */
export const several = (unit: string) => (unit === "MiB" ? unit : `${unit}s`);

export interface BenchMachine {
  cpus: number;
  model: string;
  memoryMib: number;
  node: string;
}

export interface StepResult {
  /** Unique in a result: comparisons match steps by name. */
  name: string;
  /** The counted unit in the singular: `transition`. */
  unit: string;
  /** 0: no load. */
  clients: number;
  seconds: number;
  count: number;
  perSecond: number;
  /** By kind of request; plus `all` if there are several kinds. */
  latencies: Record<string, Latency>;
  /** Number of failed requests by reason. */
  failed: Record<string, number>;
  /** Percent of one processor, by part. */
  cpuPercent: Record<string, number>;
  /** Undefined if the step counted no units. */
  cpuMsPerUnit?: Record<string, number>;
  /** Resident memory at the end of the step, of all processes of a part except Postgres. */
  memoryMib: Record<string, number>;
  countersPerSecond: DatabaseCounters;
  countersPerUnit?: DatabaseCounters;
  /** By program. Absent if this step did not count statements. */
  statementsPerSecond?: Record<string, number>;
  statementsPerUnit?: Record<string, number>;
  /** Numbers that only this kind of step has. */
  extra?: Record<string, number>;
}
