/**
 * Locks that the kernel holds for this process. flock(1) locks the file behind a descriptor that it
 * inherits; the lock belongs to this process's open file, and stays after flock(1) ends, until this
 * process closes the file or dies. The real Cloud Hypervisor uses OFD locks (fcntl), which live as
 * long. The two kinds do not see each other, so a fake and a real VMM must not share a disk.
 */
import { spawnSync } from "node:child_process";

/** False if another open file has a conflicting lock. */
export function tryLock(file: number, mode: "exclusive" | "shared"): boolean {
  const result = spawnSync("flock", [`--${mode}`, "--nonblock", "3"], {
    stdio: ["ignore", "ignore", "pipe", file],
  });
  if (result.error !== undefined)
    throw new Error("flock(1) cannot be started: install util-linux", { cause: result.error });
  if (result.status === 0) return true;
  if (result.status === 1) return false;
  throw new Error(`flock(1) ended with ${result.status}: ${result.stderr.toString()}`);
}
