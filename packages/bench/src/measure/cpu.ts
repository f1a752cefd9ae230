/** Processor time of each part of a fleet, from /proc. */
import { readdirSync, readFileSync } from "node:fs";
import type { Component, Role } from "@torpor/fleet";
import { residentBytes } from "@torpor/service";

/** Milliseconds since the start of each process, by part. */
export type CpuTimes = Record<string, number>;

const TICKS_PER_SECOND = 100;
const MS_PER_TICK = 1_000 / TICKS_PER_SECOND;

/** Components that this package adds to a fleet, by name. */
export const BENCH_HOSTS = "bench-hosts";
export const APPLICATION = "application";

const HOSTS = "bench hosts";
export const AGENT = "node-agent";
/** Virtual machines, and the processes in them. */
export const GUEST = "guest";
const PARTS: Partial<Record<Role, string>> = {
  postgres: "postgres",
  scheduler: "schedulers",
  gateway: "gateway",
  nats: "nats",
  "node-agent": AGENT,
};
const NAMED: Readonly<Record<string, string>> = {
  [BENCH_HOSTS]: HOSTS,
  [APPLICATION]: APPLICATION,
};
const partOf = ({ name, role }: Pick<Component, "name" | "role">) => NAMED[name] ?? PARTS[role];

/** Processes by part that are no components of the fleet. */
export type OtherProcesses = Readonly<Record<string, readonly number[]>>;
/** This process, which sends the load and measures. */
const LOAD = "load";
/** Idle time of the machine's processors. */
export const IDLE = "machine idle";
/** Processor time of processes outside the benchmark: the less, the better the numbers. */
export const OTHERS = "others";
/** The control plane, in the order in which a request passes it. */
export const PARTS_THAT_COUNT: readonly string[] = ["gateway", "schedulers", "postgres", "nats"];
/** All reported parts; those of the benchmark itself are last. */
export const PARTS_TOLD = [...PARTS_THAT_COUNT, AGENT, GUEST, APPLICATION, HOSTS, LOAD];

interface Stat {
  ppid: number;
  ownMs: number;
  /** Time of children that have ended and were waited for. */
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
  // The fields after the name, which may contain any character: state, ppid, …
  const fields = text
    .slice(text.lastIndexOf(")") + 2)
    .split(" ")
    .map(Number);
  const ms = (at: number) => (fields[at] ?? 0) * MS_PER_TICK;
  return { ppid: fields[1] ?? 0, ownMs: ms(11) + ms(12), reapedMs: ms(13) + ms(14) };
}

/** Time of a process and its children, including ended ones. */
export function treeMs(pid: number): number {
  const root = statOf(pid);
  if (root === undefined) return 0;
  const [, ...children] = processTree(pid);
  const ofChildren = children.map((child) => statOf(child)?.ownMs ?? 0);
  return ofChildren.reduce((sum, ms) => sum + ms, root.ownMs + root.reapedMs);
}

/** A process and its children. */
export function processTree(pid: number): number[] {
  const children = readdirSync("/proc").filter(
    (name) => /^\d+$/.test(name) && statOf(name)?.ppid === pid,
  );
  return [pid, ...children.map(Number)];
}

export function cpuOf(components: readonly Component[], others: OtherProcesses = {}): CpuTimes {
  const times: CpuTimes = {};
  for (const [part, pids] of Object.entries(others))
    times[part] = pids.reduce((sum, pid) => sum + (statOf(pid)?.ownMs ?? 0), 0);
  for (const { name, role, process: identity } of components) {
    const part = partOf({ name, role });
    if (part === undefined || identity === undefined) continue;
    // Postgres is many processes; the other programs have only threads.
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

/** Resident memory in MiB, except of Postgres, whose processes share most of theirs. */
export function memoryOf(components: readonly Component[]): Record<string, number> {
  const memory: Record<string, number> = {};
  for (const { name, role, process: identity } of components) {
    const part = partOf({ name, role });
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
