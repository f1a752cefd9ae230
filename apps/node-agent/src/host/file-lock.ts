/** Locks between processes, held by the kernel: however the holder ends, its lock ends with it. */
import { spawn } from "node:child_process";
import { once } from "node:events";

/**
 * Runs `body` while no other process holds a lock on the same path. Throws if the lock is not
 * acquired within `limitMs`.
 */
export async function withFileLock<T>(
  path: string,
  limitMs: number,
  body: () => Promise<T>,
): Promise<T> {
  // flock(1) takes the lock, then runs cat, which echoes its input and ends with the pipe: when
  // this process closes the pipe, or dies.
  const holder = spawn("flock", ["--exclusive", "--wait", String(limitMs / 1000), path, "cat"], {
    stdio: ["pipe", "pipe", "ignore"],
  });
  holder.stdin.on("error", () => {});
  const exited = once(holder, "exit");
  exited.catch(() => {});
  holder.stdin.write("held\n");
  const outcome = await Promise.race([
    once(holder.stdout, "data").then(() => "held" as const),
    exited.then(() => "ended" as const),
  ]);
  if (outcome === "ended")
    throw new Error(`another process holds ${path} for more than ${Math.round(limitMs / 1000)} s`);
  try {
    return await body();
  } finally {
    holder.stdin.end();
    await exited;
  }
}
