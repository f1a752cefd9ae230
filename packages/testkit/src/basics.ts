import { randomBytes } from "node:crypto";
import { chmod, mkdir, mkdtemp, rm, statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { recordLeftover } from "./test-run/leftovers.ts";

/** Poll interval: short at first, then a tenth of the elapsed time. */
const LOOK_EVERY = { leastMs: 20, mostMs: 250, share: 0.1 };
const MEMORY = "/dev/shm";
/** Constant of linux/magic.h. */
const TMPFS_MAGIC = 0x01_02_19_94;
/** Enough for all tests that run at once, and as much again for other programs. */
const MIN_FREE_MEMORY_BYTES = 4 * 2 ** 30;

/**
 * Polls until `look` returns a value, or throws after `limitMs`. The condition must stay true once
 * it is true, or a poll may miss it.
 */
export async function until<T>(
  what: string,
  look: () => T | Promise<T>,
  limitMs = 60_000,
): Promise<NonNullable<T>> {
  const startedAt = performance.now();
  for (;;) {
    const seen = await look();
    if (seen !== undefined && seen !== null && seen !== false) return seen;
    const elapsedMs = performance.now() - startedAt;
    if (elapsedMs > limitMs) throw new Error(`not seen within ${limitMs} ms: ${what}`);
    const { leastMs, mostMs, share } = LOOK_EVERY;
    await sleep(Math.min(mostMs, Math.max(leastMs, elapsedMs * share)));
  }
}

/** A directory that is removed when it goes out of scope: `await using dir = await tempDir()`. */
export async function tempDir(): Promise<AsyncDisposable & { path: string }> {
  return removedAtEnd(await mkdtemp(join(tmpdir(), "torpor-test-")));
}

function removedAtEnd(path: string): AsyncDisposable & { path: string } {
  // A process that was just killed may still have created a file.
  const remove = () => rm(path, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  return { path, [Symbol.asyncDispose]: remove };
}

/**
 * For the thousands of small files of a Postgres, which cost up to a second of CPU on some disks:
 * in memory if the machine has room, otherwise a `tempDir`. The server's own user may enter it.
 */
export async function smallFilesDir(): Promise<AsyncDisposable & { path: string }> {
  const dir = (await hasRoomInMemory()) ? await memoryDir() : await tempDir();
  await chmod(dir.path, 0o711);
  return dir;
}

async function memoryDir(): Promise<AsyncDisposable & { path: string }> {
  const path = join(MEMORY, `torpor-test-${randomBytes(6).toString("hex")}`);
  recordLeftover({ kind: "directory", name: path });
  await mkdir(path, { mode: 0o700 });
  return removedAtEnd(path);
}

/** The machine must have that much memory, and a container must be allowed to use it. */
async function hasRoomInMemory(): Promise<boolean> {
  if (process.availableMemory() < MIN_FREE_MEMORY_BYTES) return false;
  const memory = await statfs(MEMORY).catch(() => undefined);
  return memory?.type === TMPFS_MAGIC && memory.bavail * memory.bsize >= MIN_FREE_MEMORY_BYTES;
}
