/** Storage as a snapshot store needs it: whole objects by key, visible to every host. */

export interface Blob {
  key: string;
  sizeBytes: number;
  /**
   * Time by the clock of the storage: compare it with that of another blob, not with this
   * machine's.
   */
  modifiedAtMs: number;
}

/**
 * - A put is atomic, and durable when it returns.
 * - Every later get and list, on every host, sees what was put or removed.
 */
export interface Blobs {
  /** Name for messages. */
  readonly name: string;
  put(key: string, content: Uint8Array, signal: AbortSignal): Promise<void>;
  /** Undefined if the key does not exist. */
  get(key: string, signal: AbortSignal): Promise<Buffer | undefined>;
  /** All blobs below `prefix`, which ends with a slash. */
  list(prefix: string, signal: AbortSignal): AsyncIterable<Blob>;
  /** First parts of all keys with several parts, each once. */
  roots(signal: AbortSignal): AsyncIterable<string>;
  /** Succeeds if the key does not exist. */
  remove(key: string, signal: AbortSignal): Promise<void>;
}

/** Removes all below `prefix`. */
export async function removeBelow(
  blobs: Blobs,
  prefix: string,
  signal: AbortSignal,
): Promise<void> {
  const keys: string[] = [];
  for await (const { key } of blobs.list(prefix, signal)) keys.push(key);
  await inParallel(keys, REMOVED_AT_ONCE, (key) => blobs.remove(key, signal));
}

const REMOVED_AT_ONCE = 8;
const UNLOCK_LIMIT_MS = 10_000;

/**
 * Removes a lock (format.ts) when its holder ends. The holder's signal is not used, because it may
 * be what ended the holder. A lock that stays is ignored once it is old.
 */
export async function unlock(blobs: Blobs, lock: string): Promise<void> {
  await blobs.remove(lock, AbortSignal.timeout(UNLOCK_LIMIT_MS)).catch(() => {});
}

/**
 * Works on `items`, `atOnce` at a time. After a failure no further item begins; the first failure
 * is thrown once all running items have ended.
 */
export async function inParallel<T>(
  items: readonly T[],
  atOnce: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const failures: unknown[] = [];
  let next = 0;
  const run = async () => {
    while (failures.length === 0 && next < items.length) {
      const item = items[next] as T;
      next += 1;
      await work(item).catch((error: unknown) => failures.push(error));
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, run));
  if (failures.length > 0) throw failures[0];
}
