/**
 * Removes what the store holds for nothing: entries that the control plane says are referred to by
 * nothing any more, and chunks that no entry names.
 *
 * SW1  Hosts do not know what is referred to: the control plane is asked, and what it does not name
 *      stays.
 * SW2  Nothing is taken from what somebody adds to, or takes from too: puts and sweeps of one
 *      sandbox each set a lock of their own, then look for the others' (two puts do each other no
 *      harm); both may give way, never neither, and none removes another's that may live. Locks of
 *      processes that died are ignored once they are old, and removed; a put that stood still so
 *      long finds its own gone, and fails.
 * SW3  Nothing young goes, by the clock of the store: whatever is under way has that long.
 * SW4  One host of those that share the store sweeps at a time, told by a mark in the store that it
 *      sets again and again; two that begin at once do no harm.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { GarbageReply, GarbageRequest } from "@torpor/contracts";
import type { Logger } from "@torpor/service";
import { type Blob, type Blobs, inParallel, removeBelow, unlock } from "./blobs.ts";
import {
  chunkKey,
  chunksBelow,
  decodeIndex,
  entriesBelow,
  entryKey,
  locksBelow,
  storeKeyOf,
  sweepingLock,
} from "./format.ts";

type AskGarbage = (
  sandboxes: GarbageRequest["sandboxes"],
) => Promise<Pick<GarbageReply, "deleted" | "storeKeys"> | undefined>;

export interface SweepOptions {
  everyMs: number;
  /** What is younger stays. */
  graceMs: number;
  ask: AskGarbage;
  signal: AbortSignal;
  log: Logger;
}

export interface SweptEntries {
  sandboxes: number;
  entries: number;
  chunks: number;
}

const MARK = "sweep";
/** A mark counts for half a round. */
const MARKS_PER_ROUND = 6;
const SANDBOX_ID = /^[0-9]{10}[a-z0-9]{8}$/;
/** Of one question. */
const ASKED_AT_ONCE = 200;
const REMOVED_AT_ONCE = 8;
const REMOVE_LIMIT_MS = 10_000;
/** A sweep of one sandbox gives up long before a put takes it for dead (chunk-store.ts). */
const SANDBOX_LIMIT_MS = 300_000;
/**
 * A put sets a lock three times in that time (chunk-store.ts), and no sweep of a sandbox takes so
 * long; where all are older, they are of processes that died.
 */
const STALE_MS = 900_000;

/** Sweeps whenever it is this host's turn, until the signal ends. */
export async function keepSwept(blobs: Blobs, options: SweepOptions): Promise<void> {
  const { everyMs, signal, log } = options;
  while (!signal.aborted) {
    await sleep(everyMs * (0.5 + Math.random()), undefined, { signal }).catch(() => {});
    if (signal.aborted) return;
    try {
      if (!(await isDue(blobs, everyMs, signal))) continue;
      const swept = await marked(blobs, options, () => sweep(blobs, options));
      if (swept.sandboxes + swept.entries + swept.chunks > 0)
        log.info({ ...swept, store: blobs.name }, "the snapshot store was swept");
    } catch (err) {
      if (!signal.aborted)
        log.warn(
          { err, store: blobs.name },
          "the snapshot store could not be swept; the next round tries again",
        );
    }
  }
}

/** SW4. The mark says when somebody last swept, and a fresh one what time it is there. */
async function isDue(blobs: Blobs, everyMs: number, signal: AbortSignal): Promise<boolean> {
  const before = await timeOfMark(blobs, signal);
  if (before !== undefined && Date.now() - before < everyMs / 2) return false;
  await mark(blobs, signal);
  return true;
}

/** SW4, while `work` goes on. */
async function marked<T>(
  blobs: Blobs,
  { everyMs, signal }: SweepOptions,
  work: () => Promise<T>,
): Promise<T> {
  // Next tries come; a lost one does no harm: two sweeps give way to each other.
  const again = setInterval(
    () => void mark(blobs, signal).catch(() => {}),
    everyMs / MARKS_PER_ROUND,
  );
  try {
    return await work();
  } finally {
    clearInterval(again);
  }
}

async function mark(blobs: Blobs, signal: AbortSignal): Promise<number> {
  await blobs.put(`${MARK}/mark`, Buffer.from("sweeping\n"), signal);
  const atMs = await timeOfMark(blobs, signal);
  if (atMs === undefined)
    throw new Error(`${blobs.name} does not list what was just put there: it cannot be swept`);
  return atMs;
}

async function timeOfMark(blobs: Blobs, signal: AbortSignal): Promise<number | undefined> {
  for await (const { modifiedAtMs } of blobs.list(`${MARK}/`, signal)) return modifiedAtMs;
  return undefined;
}

/** One round over all that is stored. */
export async function sweep(
  blobs: Blobs,
  options: Pick<SweepOptions, "graceMs" | "ask" | "signal">,
): Promise<SweptEntries> {
  const { ask, signal } = options;
  const oldBeforeMs = (await mark(blobs, signal)) - options.graceMs;
  const swept: SweptEntries = { sandboxes: 0, entries: 0, chunks: 0 };
  let page: GarbageRequest["sandboxes"] = [];
  const sweepPage = async () => {
    const garbage = page.length === 0 ? undefined : await ask(page);
    for (const sandboxId of garbage?.deleted ?? []) {
      await removeBelow(blobs, `${sandboxId}/`, signal);
      swept.sandboxes += 1;
    }
    for (const { sandboxId, storeKeys } of page) {
      const chosen = new Set(storeKeys.filter((storeKey) => garbage?.storeKeys.includes(storeKey)));
      if (chosen.size > 0)
        await sweepSandbox(blobs, sandboxId, { chosen, oldBeforeMs, signal, swept });
    }
    page = [];
  };
  for await (const sandboxId of blobs.roots(signal)) {
    if (!SANDBOX_ID.test(sandboxId)) continue;
    page.push({ sandboxId, storeKeys: await storeKeysOf(blobs, sandboxId, signal) });
    if (page.length >= ASKED_AT_ONCE) await sweepPage();
  }
  await sweepPage();
  return swept;
}

async function storeKeysOf(
  blobs: Blobs,
  sandboxId: string,
  signal: AbortSignal,
): Promise<string[]> {
  const below = entriesBelow(sandboxId);
  const storeKeys: string[] = [];
  for await (const { key } of blobs.list(below, signal))
    storeKeys.push(storeKeyOf(sandboxId, key.slice(below.length)));
  return storeKeys;
}

interface Garbage {
  /** Store keys that are for nothing. */
  chosen: ReadonlySet<string>;
  oldBeforeMs: number;
  signal: AbortSignal;
  swept: SweptEntries;
}

async function sweepSandbox(blobs: Blobs, sandboxId: string, garbage: Garbage): Promise<void> {
  const signal = AbortSignal.any([garbage.signal, AbortSignal.timeout(SANDBOX_LIMIT_MS)]);
  // One of its own: another sweep of the sandbox ends when it ends.
  const lock = sweepingLock(sandboxId, randomBytes(4).toString("hex"));
  try {
    await blobs.put(lock, Buffer.from("sweeping\n"), signal);
    if (await isAlone(blobs, sandboxId, lock, signal))
      await removeGarbage(blobs, sandboxId, garbage, signal);
  } finally {
    await unlock(blobs, lock);
  }
}

/** SW2. Locks that are ignored go. */
async function isAlone(
  blobs: Blobs,
  sandboxId: string,
  ownLock: string,
  signal: AbortSignal,
): Promise<boolean> {
  const locks: Blob[] = [];
  for await (const blob of blobs.list(locksBelow(sandboxId), signal)) locks.push(blob);
  const own = locks.find(({ key }) => key === ownLock);
  if (own === undefined) return false;
  const others = locks.filter(({ key }) => key !== own.key);
  if (others.some(({ modifiedAtMs }) => own.modifiedAtMs - modifiedAtMs < STALE_MS)) return false;
  for (const { key } of others) await blobs.remove(key, signal);
  return true;
}

async function removeGarbage(
  blobs: Blobs,
  sandboxId: string,
  garbage: Garbage,
  signal: AbortSignal,
): Promise<void> {
  const { chosen, oldBeforeMs, swept } = garbage;
  const all: Blob[] = [];
  for await (const blob of blobs.list(`${sandboxId}/`, signal)) all.push(blob);
  const isEntry = ({ key }: Blob) => key.startsWith(entriesBelow(sandboxId));
  const goes = new Set([...chosen].map(entryKey));
  const old = (blob: Blob) => blob.modifiedAtMs < oldBeforeMs;
  const [gone, kept] = [
    all.filter((blob) => goes.has(blob.key) && old(blob)),
    all.filter((blob) => isEntry(blob) && !(goes.has(blob.key) && old(blob))),
  ];
  const named = await namedChunks(blobs, sandboxId, kept, signal);
  // Not with the signal: one that is broken off may come to pass all the same, when the lock is
  // gone and a put relies on what it takes.
  const remove = async ({ key }: Blob) => {
    signal.throwIfAborted();
    await blobs.remove(key, AbortSignal.timeout(REMOVE_LIMIT_MS));
  };
  // Entries first: an entry never stands without its chunks.
  await inParallel(gone, REMOVED_AT_ONCE, remove);
  const orphans = all.filter(
    (blob) => blob.key.startsWith(chunksBelow(sandboxId)) && old(blob) && !named.has(blob.key),
  );
  await inParallel(orphans, REMOVED_AT_ONCE, remove);
  swept.entries += gone.length;
  swept.chunks += orphans.length;
}

/** Throws when an entry that stays cannot be read: then nobody knows which chunks it needs. */
async function namedChunks(
  blobs: Blobs,
  sandboxId: string,
  entries: Blob[],
  signal: AbortSignal,
): Promise<Set<string>> {
  const named = new Set<string>();
  for (const { key } of entries) {
    const content = await blobs.get(key, signal);
    if (content === undefined) continue;
    for (const { chunks } of Object.values(decodeIndex(content).files))
      for (const ref of chunks) named.add(chunkKey(sandboxId, ref));
  }
  return named;
}
