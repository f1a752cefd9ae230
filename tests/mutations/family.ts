/** The processes of a guard, however far from it: servers and VMMs of tests are detached. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import {
  identify,
  isAlive,
  type ProcessIdentity,
  signalProcess,
  waitUntilGone,
} from "@torpor/service/processes";

const KILL_LIMIT_MS = 10_000;

/**
 * Kills every process that names `dir` (as where it works, in its arguments or in its environment),
 * and all that descend from one that does. Throws when one cannot be ended.
 */
export async function endFamily(dir: string): Promise<void> {
  for (let family = familyOf(dir); family.length > 0; family = familyOf(dir)) {
    for (const member of family) signalProcess(member, "SIGKILL");
    for (const member of family) {
      if (await waitUntilGone(member, KILL_LIMIT_MS)) continue;
      throw new Error(`process ${member.pid} of a guard cannot be ended`);
    }
  }
}

function familyOf(dir: string): ProcessIdentity[] {
  const pids = readdirSync("/proc")
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid !== process.pid);
  const family = new Set(pids.filter((pid) => names(pid, dir)));
  for (let size = 0; size < family.size;) {
    size = family.size;
    for (const pid of pids) if (family.has(parentOf(pid))) family.add(pid);
  }
  return [...family].flatMap((pid) => identify(pid) ?? []).filter(isAlive);
}

function names(pid: number, dir: string): boolean {
  try {
    const [place, of] = [readlinkSync(`/proc/${pid}/cwd`), `/proc/${pid}`];
    const texts = [
      place,
      readFileSync(`${of}/cmdline`, "utf8"),
      readFileSync(`${of}/environ`, "utf8"),
    ];
    return texts.some((text) => text.includes(dir));
  } catch {
    // It has ended, or is somebody else's.
    return false;
  }
}

function parentOf(pid: number): number {
  try {
    return Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
  } catch {
    return 0;
  }
}
