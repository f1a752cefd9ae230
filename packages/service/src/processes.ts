/**
 * Processes that are not our children: identified by pid, start time and boot, never only by name.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export interface ProcessIdentity {
  pid: number;
  /** Field 22 of /proc/<pid>/stat: clock ticks after boot. A recycled pid has another. */
  startTime: string;
  bootId: string;
}

export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}

/** Undefined when there is no such process. */
export function identify(pid: number): ProcessIdentity | undefined {
  const startTime = fieldsOf(pid)?.startTime;
  return startTime === undefined ? undefined : { pid, startTime, bootId: bootId() };
}

/**
 * State of the process, as the kernel's letter: `T` is stopped, `Z` is dead. Undefined when the
 * process is gone.
 */
export function stateOf(identity: ProcessIdentity): string | undefined {
  if (identity.bootId !== bootId()) return undefined;
  const fields = fieldsOf(identity.pid);
  return fields?.startTime === identity.startTime ? fields.state : undefined;
}

/** The same process is alive. A zombie is dead: its memory, files and locks are free. */
export function isAlive(identity: ProcessIdentity): boolean {
  const state = stateOf(identity);
  return state !== undefined && state !== "Z" && state !== "X";
}

/** PF_EXITING of the kernel's include/linux/sched.h. */
const EXITING = 0x4;
/** Bit 8 of a set of signals. */
const SIGKILL_PENDING = 0x100n;

/**
 * The process runs no more instructions of its own, even if the kernel, which frees its memory,
 * shows it as running. Also detects a kill of a stopped process.
 */
export function isKilled(pid: number): boolean {
  try {
    const pending = [
      ...readFileSync(`/proc/${pid}/status`, "utf8").matchAll(
        /^(?:SigPnd|ShdPnd):\s+([0-9a-f]+)$/gm,
      ),
    ];
    if (pending.some(([, set]) => (BigInt(`0x${set}`) & SIGKILL_PENDING) !== 0n)) return true;
  } catch {
    return true;
  }
  const flags = fieldsOf(pid)?.flags;
  return flags === undefined || (flags & EXITING) !== 0;
}

export function residentBytes(pid: number): number {
  try {
    return (
      Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) *
      1024
    );
  } catch {
    return 0;
  }
}

/** Sends `signal`, if the process is still the same one. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): void {
  if (!isAlive(identity)) return;
  try {
    process.kill(identity.pid, signal);
  } catch {
    // The process ended between the check and the call.
  }
}

/** True when the process is gone within `limitMs`; the signal ends the wait early. */
export async function waitUntilGone(
  identity: ProcessIdentity,
  limitMs: number,
  signal?: AbortSignal,
): Promise<boolean> {
  const deadline = performance.now() + limitMs;
  while (isAlive(identity)) {
    if (performance.now() >= deadline || signal?.aborted === true) return false;
    await sleep(10);
  }
  return true;
}

/**
 * Processes with the working directory `directory` that were started with `name=value` in their
 * environment.
 */
export function findProcesses(directory: string, name: string, value: string): ProcessIdentity[] {
  const found: ProcessIdentity[] = [];
  for (const entry of readdirSync("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      if (readlinkSync(`/proc/${pid}/cwd`) !== directory) continue;
      if (!readFileSync(`/proc/${pid}/environ`, "utf8").split("\0").includes(`${name}=${value}`))
        continue;
    } catch {
      // The process ended, or belongs to another user.
      continue;
    }
    const identity = identify(pid);
    if (identity !== undefined && isAlive(identity)) found.push(identity);
  }
  return found;
}

/** Fields of /proc/<pid>/stat. */
interface ProcessFields {
  state: string;
  parent: number;
  /** The process has a controlling terminal, so a person uses it, or did. */
  hasTerminal: boolean;
  flags: number;
  startTime: string;
}

/** Undefined when there is no such process. */
export function fieldsOf(pid: number): ProcessFields | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field, the name, may contain spaces and brackets: count from its end.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return {
      state: fields[0] ?? "",
      parent: Number(fields[1]),
      hasTerminal: Number(fields[4]) !== 0,
      flags: Number(fields[6]),
      startTime: fields[19] ?? "",
    };
  } catch {
    return undefined;
  }
}
