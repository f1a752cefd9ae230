/** Numbers from /proc. Unreadable values count as nothing: a process may end while it is read. */
import { readdirSync, readFileSync } from "node:fs";
import { cpus, uptime } from "node:os";

/** USER_HZ: the unit of times in /proc, fixed for user space. */
const TICKS_PER_S = 100;
const PAGE_BYTES = 4096;
const STATES: Record<string, string> = {
  R: "running",
  S: "sleeping",
  D: "disk-sleep",
  T: "stopped",
  t: "stopped",
  Z: "zombie",
  I: "idle",
  X: "dead",
};

export interface ProcessFacts {
  pid: number;
  ppid: number;
  name: string;
  status: string;
  /** Average over the life of the process, as in `ps`. */
  cpu_percent: number;
  memory_mb: number;
  command: string;
}

export function listProcesses(): ProcessFacts[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => factsOf(Number(pid)) ?? []);
}

function factsOf(pid: number): ProcessFacts | undefined {
  const stat = read(`/proc/${pid}/stat`);
  const open = stat.indexOf("(");
  const close = stat.lastIndexOf(")");
  if (open < 0) return undefined;
  const fields = stat.slice(close + 2).split(" ");
  const number = (at: number) => Number(fields[at] ?? 0);
  const name = stat.slice(open + 1, close);
  const lifeS = Math.max(uptime() - number(19) / TICKS_PER_S, 0.01);
  const command = read(`/proc/${pid}/cmdline`).replaceAll("\0", " ").trim();
  return {
    pid,
    ppid: number(1),
    name,
    status: STATES[fields[0] ?? ""] ?? "unknown",
    cpu_percent: round((100 * (number(11) + number(12))) / TICKS_PER_S / lifeS),
    memory_mb: round((number(21) * PAGE_BYTES) / 1024 ** 2),
    command: command === "" ? `[${name}]` : command.slice(0, 1000),
  };
}

/** Busy and total time of all processors since boot, in ticks. */
export function cpuTimes(): { busy: number; total: number } {
  const line = read("/proc/stat").split("\n")[0] ?? "";
  // The last two fields, guest times, are already part of user time.
  const times = line.trim().split(/\s+/).slice(1, 9).map(Number);
  const total = times.reduce((sum, time) => sum + time, 0);
  return { busy: total - (times[3] ?? 0) - (times[4] ?? 0), total };
}

export const cpuCount = (): number => cpus().length;

/** In bytes. `free` is what programs can still allocate. */
export function memory(): { total: number; used: number; free: number; usage_percent: number } {
  const text = read("/proc/meminfo");
  const bytes = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)?.[1] ?? 0) * 1024;
  const [total, free] = [bytes("MemTotal"), bytes("MemAvailable")];
  return {
    total,
    used: total - free,
    free,
    usage_percent: total === 0 ? 0 : round((100 * (total - free)) / total),
  };
}

export const round = (value: number): number => Math.round(value * 100) / 100;

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
