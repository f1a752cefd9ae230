/**
 * Locks that the kernel holds for this process. flock(1) locks the file behind a descriptor that it
 * inherits from us; the lock belongs to our open file and stays when flock(1) has ended: until we
 * close the file or die. The real one takes OFD locks (fcntl), of the same life; the two kinds do
 * not see each other, so a fake and a real VMM must not share a disk.
 */
import { spawnSync } from "node:child_process";

/** False: another open file has a lock that this one does not go with. */
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
