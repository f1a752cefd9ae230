/**
 * The cgroup of everything that users run: what is in it, and whether it is frozen. Its limits are
 * set at boot (infra/images/code-interpreter/init).
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** Freezes or thaws it and waits until the kernel says so. True when it is as asked. */
export async function setFrozen(
  cgroup: string | undefined,
  frozen: boolean,
  limitMs: number,
): Promise<boolean> {
  if (cgroup === undefined || !existsSync(`${cgroup}/cgroup.freeze`)) return false;
  writeFileSync(`${cgroup}/cgroup.freeze`, frozen ? "1" : "0");
  const deadline = performance.now() + limitMs;
  const isAsAsked = () =>
    readFileSync(`${cgroup}/cgroup.events`, "utf8").includes(`frozen ${frozen ? 1 : 0}`);
  while (!isAsAsked()) {
    if (performance.now() > deadline) return false;
    await sleep(5);
  }
  return true;
}

export function userProcesses(cgroup: string | undefined): number[] {
  if (cgroup === undefined) return [];
  return readFileSync(`${cgroup}/cgroup.procs`, "utf8").split("\n").filter(Boolean).map(Number);
}

/** False when it has ended by itself. */
export function killProcess(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}
