/**
 * The cgroup of all processes of users: their list, and the cgroup freezer that suspends them. Its
 * limits are set at boot (infra/images/code-interpreter/init).
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * Suspends or resumes the users' processes, and waits for the kernel to confirm. Returns true once
 * they are.
 */
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

/** Returns false when the process has already ended. */
export function killProcess(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}
