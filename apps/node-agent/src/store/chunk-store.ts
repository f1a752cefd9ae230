/** The snapshot store: entries of chunks (format.ts) over any blobs. */
import { randomBytes } from "node:crypto";
import type { SandboxId } from "@torpor/contracts";
import { type Blobs, removeBelow, unlock } from "./blobs.ts";
import type { FetchSource } from "./fetch.ts";
import {
  aliveLock,
  CHUNK_BYTES,
  chunkKey,
  chunksBelow,
  decodeIndex,
  encodeChunk,
  encodeIndex,
  entryKey,
  entryName,
  locksBelow,
  parseChunkName,
  sha256Hex,
  storedAs,
  storeKeyOf,
  sweepsBelow,
  writingLock,
} from "./format.ts";
import { indexOf, type SnapshotCopy } from "./read-chunks.ts";
import type { PutOptions, SnapshotStore } from "./snapshot-store.ts";

interface Writing {
  /** Throws if something of the sandbox may have been swept since. */
  assertKept: () => Promise<void>;
  end: () => Promise<void>;
}

/** An older sweep has died. A running put renews its `.alive` lock (sweep.ts). */
const SWEEP_STALE_MS = 900_000;
const WRITING_EVERY_MS = 300_000;

export class ChunkStore implements SnapshotStore {
  readonly name: string;
  private readonly blobs: Blobs;
  private readonly chunkBytes: number;

  constructor(blobs: Blobs, chunkBytes: number = CHUNK_BYTES) {
    this.blobs = blobs;
    this.name = blobs.name;
    this.chunkBytes = chunkBytes;
  }

  async put(copy: SnapshotCopy, options: PutOptions): Promise<string> {
    const { sandboxId } = copy;
    const entry = entryName(copy.generation, sha256Hex(copy.manifest));
    const { assertKept, end } = await this.startWriting(sandboxId, entry, options.signal);
    try {
      const stored = await this.storedChunks(sandboxId, options.signal);
      const index = await indexOf(copy, this.chunkBytes, {
        ...options,
        take: async ({ content, sha256 }) => {
          const known = stored.get(sha256);
          if (known !== undefined) return known;
          const packed = await encodeChunk(content);
          await options.pace?.(packed.length);
          await this.blobs.put(
            chunkKey(sandboxId, [0, sha256, packed.length]),
            packed,
            options.signal,
          );
          stored.set(sha256, packed.length);
          return packed.length;
        },
      });
      const storeKey = storeKeyOf(sandboxId, entry);
      // The check before: an index is not put if its chunks may be gone. The check after: the index
      // is valid only if no sweep has missed it.
      await assertKept();
      await this.blobs.put(entryKey(storeKey), encodeIndex(index), options.signal);
      await assertKept();
      return storeKey;
    } finally {
      await end();
    }
  }

  source(storeKey: string): FetchSource {
    const { sandboxId } = storedAs(storeKey);
    return {
      name: "the snapshot store",
      index: async (signal) => {
        const content = await this.blobs.get(entryKey(storeKey), signal);
        if (content === undefined) throw new Error(`the store has no snapshot ${storeKey}`);
        return decodeIndex(content);
      },
      chunk: async (_file, ref, signal) => {
        const content = await this.blobs.get(chunkKey(sandboxId, ref), signal);
        if (content === undefined)
          throw new Error(`chunk ${ref[1]} of ${storeKey} is missing in the store`);
        return content;
      },
    };
  }

  async remove(sandboxId: SandboxId, signal: AbortSignal): Promise<void> {
    await removeBelow(this.blobs, `${sandboxId}/`, signal);
  }

  /**
   * Stored sizes by hash. A chunk whose size is not the one in its name is truncated, and is put
   * again.
   */
  private async storedChunks(
    sandboxId: SandboxId,
    signal: AbortSignal,
  ): Promise<Map<string, number>> {
    const stored = new Map<string, number>();
    const below = chunksBelow(sandboxId);
    for await (const { key, sizeBytes } of this.blobs.list(below, signal)) {
      const chunk = parseChunkName(key.slice(below.length));
      if (chunk !== undefined && chunk.storedBytes === sizeBytes)
        stored.set(chunk.sha256, chunk.storedBytes);
    }
    return stored;
  }

  /**
   * Prevents sweeps of the sandbox until `end`. Throws while a sweep is running. A process that
   * hangs for long may be taken for dead, and its locks removed. The first lock is never renewed,
   * so `assertKept` finds it missing and throws.
   */
  private async startWriting(
    sandboxId: SandboxId,
    entry: string,
    signal: AbortSignal,
  ): Promise<Writing> {
    // A lock for each put: another put of the same entry removes only its own.
    const lock = writingLock(sandboxId, entry, randomBytes(4).toString("hex"));
    const alive = aliveLock(lock);
    const set = (key: string) => this.blobs.put(key, Buffer.from("writing\n"), signal);
    await set(lock);
    // A failed renewal does no harm, as long as not all fail.
    const again = setInterval(() => void set(alive).catch(() => {}), WRITING_EVERY_MS);
    const assertKept = () => this.assertKept(sandboxId, lock, signal);
    const end = async () => {
      clearInterval(again);
      for (const key of [lock, alive]) await unlock(this.blobs, key);
    };
    try {
      await assertKept();
      return { assertKept, end };
    } catch (error) {
      await end();
      throw error;
    }
  }

  private async assertKept(
    sandboxId: SandboxId,
    ownLock: string,
    signal: AbortSignal,
  ): Promise<void> {
    const times = new Map<string, number>();
    for await (const { key, modifiedAtMs } of this.blobs.list(locksBelow(sandboxId), signal))
      times.set(key, modifiedAtMs);
    const ownAtMs = times.get(ownLock);
    if (ownAtMs === undefined)
      throw new Error("what is stored of the sandbox was swept meanwhile; try again");
    const sweeps = [...times].filter(([key]) => key.startsWith(sweepsBelow(sandboxId)));
    if (sweeps.some(([, sweepAtMs]) => ownAtMs - sweepAtMs < SWEEP_STALE_MS))
      throw new Error("what is stored of the sandbox is being swept; try again");
  }
}
