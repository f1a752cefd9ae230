import { randomBytes } from "node:crypto";
import { chmod, mkdir, mkdtemp, rm, statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { recordLeftover } from "./test-run/leftovers.ts";

/** How often it is looked: often for what comes soon, else a tenth of the time that has gone by. */
const LOOK_EVERY = { leastMs: 20, mostMs: 250, share: 0.1 };
const MEMORY = "/dev/shm";
/** Of linux/magic.h. */
const TMPFS_MAGIC = 0x01_02_19_94;
/** What all tests that run at once may take of it, and as much again for others. */
const MIN_FREE_MEMORY_BYTES = 4 * 2 ** 30;

/**
 * Looks until `look` gives something, or throws after `limitMs`; what it looks at has to stay true,
 * so that nothing is missed between two looks.
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
  // What was killed a moment ago may still have made a file.
  const remove = () => rm(path, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  return { path, [Symbol.asyncDispose]: remove };
}

/**
 * For the thousands of small files of a Postgres, which some disks take a second of CPU to make:
 * in memory where the machine has room there, else a `tempDir`. The server's own user may enter it.
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

/** The machine has to have it too, and a container be allowed to. */
async function hasRoomInMemory(): Promise<boolean> {
  if (process.availableMemory() < MIN_FREE_MEMORY_BYTES) return false;
  const memory = await statfs(MEMORY).catch(() => undefined);
  return memory?.type === TMPFS_MAGIC && memory.bavail * memory.bsize >= MIN_FREE_MEMORY_BYTES;
}
