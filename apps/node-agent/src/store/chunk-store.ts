/** The snapshot store: entries of chunks (format.ts) over blobs, wherever those are. */
import { type Blobs, removeBelow } from "./blobs.ts";
import type { SnapshotSource } from "./fetch.ts";
import {
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
  storeKeyOf,
  sweepingLock,
  writingLock,
} from "./format.ts";
import { indexOf, type SnapshotCopy } from "./read-chunks.ts";
import type { PutOptions, SnapshotStore } from "./snapshot-store.ts";

/** A sweep that is older has died; a put says again and again that it goes on (sweep.ts). */
const SWEEP_STALE_MS = 900_000;
const WRITING_EVERY_MS = 300_000;
const UNLOCK_LIMIT_MS = 10_000;

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
    const unlock = await this.startWriting(sandboxId, entry, options.signal);
    try {
      const stored = await this.storedChunks(sandboxId, options.signal);
      const index = await indexOf(copy, this.chunkBytes, {
        ...options,
        take: async ({ content, sha256 }) => {
          const known = stored.get(sha256);
          if (known !== undefined) return known;
          const packed = await encodeChunk(content);
          await options.pace?.(packed.length);
          await this.blobs.put(chunkKey(sandboxId, [0, sha256, packed.length]), packed, options.signal);
          stored.set(sha256, packed.length);
          return packed.length;
        },
      });
      const storeKey = storeKeyOf(sandboxId, entry);
      await this.blobs.put(entryKey(storeKey), encodeIndex(index), options.signal);
      return storeKey;
    } finally {
      await unlock();
    }
  }

  source(storeKey: string): SnapshotSource {
    const [sandboxId = ""] = storeKey.split("/");
    return {
      name: "the snapshot store",
      index: async (signal) => {
        const content = await this.blobs.get(entryKey(storeKey), signal);
        if (content === undefined) throw new Error(`the store has no snapshot ${storeKey}`);
        return decodeIndex(content);
      },
      chunk: async (_file, ref, signal) => {
        const content = await this.blobs.get(chunkKey(sandboxId, ref), signal);
        if (content === undefined) throw new Error(`chunk ${ref[1]} of ${storeKey} is missing in the store`);
        return content;
      },
    };
  }

  async remove(sandboxId: string, signal: AbortSignal): Promise<void> {
    await removeBelow(this.blobs, `${sandboxId}/`, signal);
  }

  /** By hash, with their size as stored. One that is not as long as its name says has been cut off: it is put again. */
  private async storedChunks(sandboxId: string, signal: AbortSignal): Promise<Map<string, number>> {
    const stored = new Map<string, number>();
    const below = chunksBelow(sandboxId);
    for await (const { key, sizeBytes } of this.blobs.list(below, signal)) {
      const chunk = parseChunkName(key.slice(below.length));
      if (chunk !== undefined && chunk.storedBytes === sizeBytes) stored.set(chunk.sha256, chunk.storedBytes);
    }
    return stored;
  }

  /** From here on nothing of the sandbox is swept, until the returned function is called. Throws while a sweep goes on. */
  private async startWriting(sandboxId: string, entry: string, signal: AbortSignal): Promise<() => Promise<void>> {
    const lock = writingLock(sandboxId, entry);
    const write = () => this.blobs.put(lock, Buffer.from("writing\n"), signal);
    await write();
    // Next tries come; a lost one does no harm, so long as not all are.
    const again = setInterval(() => void write().catch(() => {}), WRITING_EVERY_MS);
    const unlock = async () => {
      clearInterval(again);
      // Not with the signal: an abort takes the lock away too. What stays is ignored once it is old.
      await this.blobs.remove(lock, AbortSignal.timeout(UNLOCK_LIMIT_MS)).catch(() => {});
    };
    try {
      if (await this.isBeingSwept(sandboxId, lock, signal)) throw new Error("what is stored of the sandbox is being swept; try again");
      return unlock;
    } catch (error) {
      await unlock();
      throw error;
    }
  }

  private async isBeingSwept(sandboxId: string, ownLock: string, signal: AbortSignal): Promise<boolean> {
    const times = new Map<string, number>();
    for await (const { key, modifiedAtMs } of this.blobs.list(locksBelow(sandboxId), signal)) times.set(key, modifiedAtMs);
    const sweepAtMs = times.get(sweepingLock(sandboxId));
    return sweepAtMs !== undefined && (times.get(ownLock) ?? 0) - sweepAtMs < SWEEP_STALE_MS;
  }
}
