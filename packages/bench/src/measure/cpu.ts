/** Processor time of each part of a fleet, from /proc. */
import { readdirSync, readFileSync } from "node:fs";
import type { Component, Role } from "@torpor/fleet";
import { residentBytes } from "@torpor/service";

/** In milliseconds since each began, by part. */
export type CpuTimes = Record<string, number>;

const TICKS_PER_SECOND = 100;
const MS_PER_TICK = 1_000 / TICKS_PER_SECOND;

export const HOSTS = "bench hosts";
const PARTS: Partial<Record<Role, string>> = {
  postgres: "postgres",
  scheduler: "schedulers",
  gateway: "gateway",
  nats: "nats",
  "node-agent": HOSTS,
};
/** This process, which asks and measures. */
export const LOAD = "load";
/** Nothing ran on the machine's processors. */
export const IDLE = "machine idle";
/** What ran on them that is no part of the benchmark: the less, the better its numbers. */
export const OTHERS = "others";
/** What is measured, in the order in which a request passes it; the others measure it. */
export const PARTS_THAT_COUNT: readonly string[] = ["gateway", "schedulers", "postgres", "nats"];

interface Stat {
  ppid: number;
  ownMs: number;
  /** Of children that have ended and were waited for. */
  reapedMs: number;
}

/** Undefined when there is no such process. */
export function statOf(pid: number | string): Stat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  // After the name, which may hold anything: state, ppid, …
  const fields = text
    .slice(text.lastIndexOf(")") + 2)
    .split(" ")
    .map(Number);
  const ms = (at: number) => (fields[at] ?? 0) * MS_PER_TICK;
  return { ppid: fields[1] ?? 0, ownMs: ms(11) + ms(12), reapedMs: ms(13) + ms(14) };
}

/** Of a process and its children, those that have ended too. */
export function treeMs(pid: number): number {
  const root = statOf(pid);
  if (root === undefined) return 0;
  const children = readdirSync("/proc").flatMap((name) => {
    const stat = /^\d+$/.test(name) ? statOf(name) : undefined;
    return stat?.ppid === pid ? [stat.ownMs] : [];
  });
  return children.reduce((sum, ms) => sum + ms, root.ownMs + root.reapedMs);
}

export function cpuOf(components: readonly Component[]): CpuTimes {
  const times: CpuTimes = {};
  for (const { role, process: identity } of components) {
    const part = PARTS[role];
    if (part === undefined || identity === undefined) continue;
    // Postgres is many processes; the others have threads alone.
    const ms = role === "postgres" ? treeMs(identity.pid) : (statOf(identity.pid)?.ownMs ?? 0);
    times[part] = (times[part] ?? 0) + ms;
  }
  const { user, system } = process.cpuUsage();
  times[LOAD] = (user + system) / 1_000;
  const known = Object.values(times).reduce((sum, ms) => sum + ms, 0);
  const machine = machineTimes();
  times[OTHERS] = machine.busyMs - known;
  times[IDLE] = machine.idleMs;
  return times;
}

/** Resident, in MiB. Not of Postgres, whose processes share most of it. */
export function memoryOf(components: readonly Component[]): Record<string, number> {
  const memory: Record<string, number> = {};
  for (const { role, process: identity } of components) {
    const part = PARTS[role];
    if (part === undefined || identity === undefined || role === "postgres") continue;
    memory[part] = (memory[part] ?? 0) + residentBytes(identity.pid) / 1_024 ** 2;
  }
  return memory;
}

function machineTimes(): { busyMs: number; idleMs: number } {
  const [first = ""] = readFileSync("/proc/stat", "utf8").split("\n");
  const fields = first.split(/\s+/).slice(1).map(Number);
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] =
    fields;
  return {
    busyMs: (user + nice + system + irq + softirq + steal) * MS_PER_TICK,
    idleMs: (idle + iowait) * MS_PER_TICK,
  };
}
