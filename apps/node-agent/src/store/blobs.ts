/**
 * What a snapshot store needs of the place where it keeps things: whole objects by key, seen by
 * every host.
 */

export interface Blob {
  key: string;
  sizeBytes: number;
  /** By the clock of the place: compare it with that of another blob, not with this machine's. */
  modifiedAtMs: number;
}

/**
 * - A put is whole or not there, and durable when it returns.
 * - What was put or removed is seen by every later get and list, on every host.
 */
export interface Blobs {
  /** For messages. */
  readonly name: string;
  put(key: string, content: Uint8Array, signal: AbortSignal): Promise<void>;
  /** Undefined when there is none. */
  get(key: string, signal: AbortSignal): Promise<Buffer | undefined>;
  /** All below `prefix`, which ends with a slash. */
  list(prefix: string, signal: AbortSignal): AsyncIterable<Blob>;
  /** First parts of all keys that have more than one, once each. */
  roots(signal: AbortSignal): AsyncIterable<string>;
  /** One that is not there is removed already. */
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
 * Takes a lock away (format.ts) at the end of what it was set for; not with the signal of that,
 * which may be what ended it. What stays is ignored once it is old.
 */
export async function unlock(blobs: Blobs, lock: string): Promise<void> {
  await blobs.remove(lock, AbortSignal.timeout(UNLOCK_LIMIT_MS)).catch(() => {});
}

/**
 * Works on `items`, `atOnce` at a time. Throws the first failure, once nothing of it goes on any
 * more; what was not begun by then is not.
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
