/** A time window, and the work of each part of the fleet in it. */
import type { Fleet } from "@torpor/fleet";
import type postgres from "postgres";
import type { StepResult } from "../report/result.ts";
import { type DatabaseCounters, readCounters } from "./counters.ts";
import { type CpuTimes, cpuOf, memoryOf, type OtherProcesses } from "./cpu.ts";

interface Reading {
  atMs: number;
  cpu: CpuTimes;
  countersAtMs: number;
  counters: DatabaseCounters;
}

export type Meters = { fleet: Fleet; sql: postgres.Sql; others?: OtherProcesses };

type Rates = Pick<
  StepResult,
  | "seconds"
  | "perSecond"
  | "count"
  | "cpuPercent"
  | "cpuMsPerUnit"
  | "countersPerSecond"
  | "countersPerUnit"
>;
type Measured = Rates & Pick<StepResult, "memoryMib">;

export class MeasuredWindow {
  private readonly meters: Meters;
  private readonly before: Reading;

  private constructor(meters: Meters, before: Reading) {
    this.meters = meters;
    this.before = before;
  }

  static async begin(meters: Meters): Promise<MeasuredWindow> {
    const counters = await readCounters(meters.fleet, meters.sql);
    const countersAtMs = performance.now();
    const cpu = cpuOf(meters.fleet.state.components, meters.others);
    return new MeasuredWindow(meters, { counters, countersAtMs, cpu, atMs: performance.now() });
  }

  /** `count` returns the number of units that were done in the window. */
  async end(count: () => number): Promise<Measured> {
    const cpu = cpuOf(this.meters.fleet.state.components, this.meters.others);
    const atMs = performance.now();
    const done = count();
    const counters = await readCounters(this.meters.fleet, this.meters.sql);
    const after = { cpu, atMs, counters, countersAtMs: performance.now() };
    const memoryMib = memoryOf(this.meters.fleet.state.components);
    return { ...between(this.before, after, done), memoryMib };
  }
}

export function between(before: Reading, after: Reading, count: number): Rates {
  const seconds = (after.atMs - before.atMs) / 1_000;
  const perSecond = count / seconds;
  const cpuMsPerSecond = mapValues(
    after.cpu,
    (ms, part) => (ms - (before.cpu[part] ?? 0)) / seconds,
  );
  const counterSeconds = (after.countersAtMs - before.countersAtMs) / 1_000;
  const countersPerSecond = mapValues(
    after.counters,
    (value, name) => (value - before.counters[name]) / counterSeconds,
  );
  const measured = {
    seconds,
    count,
    perSecond,
    cpuPercent: mapValues(cpuMsPerSecond, (ms) => ms / 10),
    countersPerSecond,
  };
  if (count === 0) return measured;
  return {
    ...measured,
    cpuMsPerUnit: mapValues(cpuMsPerSecond, (ms) => ms / perSecond),
    countersPerUnit: mapValues(countersPerSecond, (value) => value / perSecond),
  };
}

export function mapValues<T extends { [K in keyof T]: number }>(
  record: T,
  change: (value: number, name: keyof T) => number,
): T {
  const entries = (Object.keys(record) as (keyof T)[]).map((name) => [
    name,
    change(record[name], name),
  ]);
  return Object.fromEntries(entries) as T;
}
