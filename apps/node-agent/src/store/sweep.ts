/**
 * Removes garbage from the store: entries that nothing refers to any more, as the control plane
 * reports, and chunks that no entry names.
 *
 * SW1  Hosts do not know what is referred to. The control plane is asked, and what it does not name
 *      stays.
 * SW2  A sweep removes nothing of a sandbox that a put or another sweep works on. Each put and each
 *      sweep sets its own lock, then lists the locks of the others (two puts do not disturb each
 *      other). Both may give way, never neither, and none removes the lock of a process that may
 *      live. Locks of dead processes are ignored once they are old, and removed; a put that hung
 *      this long finds its own lock gone, and fails.
 * SW3  Nothing young is removed, by the clock of the store: work in progress has this time.
 * SW4  Only one of the hosts that share the store sweeps at a time. It sets a mark in the store,
 *      and renews it. Two hosts that begin at once do no harm.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type GarbageReply,
  type GarbageRequest,
  isSandboxId,
  type SandboxId,
} from "@torpor/contracts";
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
  /** Blobs that are younger stay. */
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
/** Renewals of the mark per round; a mark is valid for half a round. */
const MARKS_PER_ROUND = 6;
/** Sandboxes in one request, at most. */
const ASKED_AT_ONCE = 200;
const REMOVED_AT_ONCE = 8;
const REMOVE_LIMIT_MS = 10_000;
/** A sweep of one sandbox gives up long before a put takes it for dead (chunk-store.ts). */
const SANDBOX_LIMIT_MS = 300_000;
/**
 * Age at which a lock belongs to a dead process: a put renews its lock three times in this time
 * (chunk-store.ts), and no sweep of a sandbox takes this long.
 */
const STALE_MS = 900_000;

/** Sweeps whenever no host has swept lately, until the signal aborts. */
export async function keepSwept(blobs: Blobs, options: SweepOptions): Promise<void> {
  const { everyMs, signal, log } = options;
  while (!signal.aborted) {
    await sleep(everyMs * (0.5 + Math.random()), undefined, { signal }).catch(() => {});
    if (signal.aborted) return;
    try {
      if (!(await isDue(blobs, everyMs, signal))) continue;
      const swept = await marked(blobs, options, () => sweep(blobs, options));
      if (swept.sandboxes + swept.entries + swept.chunks > 0)
        log.info({ ...swept, store: blobs.name }, "snapshot store swept");
    } catch (err) {
      if (!signal.aborted)
        log.warn(
          { err, store: blobs.name },
          "snapshot store could not be swept; the next round retries",
        );
    }
  }
}

/** SW4: whether the mark is old enough, by this host's clock. If so, a new mark is set. */
async function isDue(blobs: Blobs, everyMs: number, signal: AbortSignal): Promise<boolean> {
  const before = await timeOfMark(blobs, signal);
  if (before !== undefined && Date.now() - before < everyMs / 2) return false;
  await mark(blobs, signal);
  return true;
}

/** SW4: renews the mark while `work` runs. */
async function marked<T>(
  blobs: Blobs,
  { everyMs, signal }: SweepOptions,
  work: () => Promise<T>,
): Promise<T> {
  // A failed renewal does no harm: two sweeps give way to each other.
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

/** Sweeps the whole store once. */
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
    if (!isSandboxId(sandboxId)) continue;
    page.push({ sandboxId, storeKeys: await storeKeysOf(blobs, sandboxId, signal) });
    if (page.length >= ASKED_AT_ONCE) await sweepPage();
  }
  await sweepPage();
  return swept;
}

async function storeKeysOf(
  blobs: Blobs,
  sandboxId: SandboxId,
  signal: AbortSignal,
): Promise<string[]> {
  const below = entriesBelow(sandboxId);
  const storeKeys: string[] = [];
  for await (const { key } of blobs.list(below, signal))
    storeKeys.push(storeKeyOf(sandboxId, key.slice(below.length)));
  return storeKeys;
}

interface Garbage {
  /** Store keys of the garbage. */
  chosen: ReadonlySet<string>;
  oldBeforeMs: number;
  signal: AbortSignal;
  swept: SweptEntries;
}

async function sweepSandbox(blobs: Blobs, sandboxId: SandboxId, garbage: Garbage): Promise<void> {
  const signal = AbortSignal.any([garbage.signal, AbortSignal.timeout(SANDBOX_LIMIT_MS)]);
  // A lock for each sweep: another sweep of the sandbox removes only its own.
  const lock = sweepingLock(sandboxId, randomBytes(4).toString("hex"));
  try {
    await blobs.put(lock, Buffer.from("sweeping\n"), signal);
    if (await isAlone(blobs, sandboxId, lock, signal))
      await removeGarbage(blobs, sandboxId, garbage, signal);
  } finally {
    await unlock(blobs, lock);
  }
}

/** SW2; also removes old locks. */
async function isAlone(
  blobs: Blobs,
  sandboxId: SandboxId,
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
  sandboxId: SandboxId,
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
  // Not the signal: an aborted removal may still happen, when the lock is gone and a put relies on
  // what it removes.
  const remove = async ({ key }: Blob) => {
    signal.throwIfAborted();
    await blobs.remove(key, AbortSignal.timeout(REMOVE_LIMIT_MS));
  };
  // Entries first: no entry ever exists without its chunks.
  await inParallel(gone, REMOVED_AT_ONCE, remove);
  const orphans = all.filter(
    (blob) => blob.key.startsWith(chunksBelow(sandboxId)) && old(blob) && !named.has(blob.key),
  );
  await inParallel(orphans, REMOVED_AT_ONCE, remove);
  swept.entries += gone.length;
  swept.chunks += orphans.length;
}

/** Throws if an entry that stays cannot be read: the chunks that it needs are then unknown. */
async function namedChunks(
  blobs: Blobs,
  sandboxId: SandboxId,
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
