/**
 * Fetches a snapshot onto this host, chunk by chunk, from any source.
 *
 * FT1  A chunk counts as present if the bytes in its place have its hash. Nothing else records it,
 *      and nothing else is needed after a crash, a broken connection or a change of the source
 *      (S42).
 * FT2  A chunk without the hash that the index names is never written. An index whose manifest is
 *      not the requested one is refused.
 */
import { constants } from "node:fs";
import { type FileHandle, mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { type Logger, sleep } from "@torpor/service";
import { inParallel } from "./blobs.ts";
import {
  type ChunkRef,
  chunkSha256,
  decodeChunk,
  type SnapshotIndex,
  sha256Hex,
  type StoredFile,
} from "./format.ts";
import type { Pace } from "./pace.ts";
import { chunksWithData, type CopyProgress, readChunk } from "./read-chunks.ts";

export interface FetchSource {
  /** Name for messages. */
  name: string;
  /** Throws if there is no index, or it is damaged. */
  index(signal: AbortSignal): Promise<SnapshotIndex>;
  /** A chunk as it is stored or sent: zstd. */
  chunk(file: string, ref: ChunkRef, signal: AbortSignal): Promise<Buffer>;
}

export interface FetchOptions {
  manifestSha256: string;
  signal: AbortSignal;
  log: Logger;
  /** Pace of the bytes as they are sent, applied when they have arrived. */
  pace?: Pace | undefined;
  /**
   * Bytes of the files that have arrived, without holes. When a source takes over, the count starts
   * again with the chunks that are present.
   */
  onProgress?: (progress: CopyProgress) => void;
}

/** Attempts with each source. */
const ATTEMPTS = 3;
const RETRY_MS = 500;
const AT_ONCE = 4;

/**
 * Assembles the files in `dir`, which may hold chunks of an earlier attempt. Tries the sources in
 * turn, and throws the last error.
 */
export async function fetchInto(
  dir: string,
  sources: readonly FetchSource[],
  options: FetchOptions,
): Promise<SnapshotIndex> {
  const { signal, log } = options;
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const attempts = Array.from({ length: ATTEMPTS }, () => sources).flat();
  let failure: unknown = new Error(
    "the snapshot is neither on another host that lives nor in the store",
  );
  for (const [at, source] of attempts.entries()) {
    if (at >= sources.length) await sleep(RETRY_MS * at, signal);
    signal.throwIfAborted();
    try {
      return await fetchFrom(source, dir, options);
    } catch (err) {
      signal.throwIfAborted();
      failure = err;
      log.warn(
        { err, source: source.name, attempt: at + 1 },
        "snapshot could not be fetched; fetched chunks are kept",
      );
    }
  }
  throw failure;
}

async function fetchFrom(
  source: FetchSource,
  dir: string,
  options: FetchOptions,
): Promise<SnapshotIndex> {
  const { manifestSha256, signal, pace, onProgress } = options;
  const index = await source.index(signal);
  if (sha256Hex(index.manifest) !== manifestSha256)
    throw new Error(`${source.name} has another snapshot than the one that was recorded`);
  const count = Object.values(index.files).reduce((sum, { chunks }) => sum + chunks.length, 0);
  const progress = { bytesDone: 0, bytesTotal: count * index.chunkBytes };
  const arrived = (chunks: number) => {
    progress.bytesDone += chunks * index.chunkBytes;
    onProgress?.(progress);
  };
  for (const [name, file] of Object.entries(index.files)) {
    const path = join(dir, name);
    const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    try {
      await handle.truncate(file.sizeBytes);
      const missing = await missingChunks(handle, path, file, index.chunkBytes, signal);
      arrived(file.chunks.length - missing.length);
      await inParallel(missing, AT_ONCE, async (ref) => {
        signal.throwIfAborted();
        const packed = await source.chunk(name, ref, signal);
        await pace?.(packed.length);
        const content = await decodeChunk(packed, ref[1], index.chunkBytes);
        await handle.write(content, 0, content.length, ref[0] * index.chunkBytes);
        arrived(1);
      });
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
  return index;
}

async function missingChunks(
  handle: FileHandle,
  path: string,
  file: StoredFile,
  chunkBytes: number,
  signal: AbortSignal,
): Promise<ChunkRef[]> {
  const written = new Set(await chunksWithData(path, chunkBytes, signal));
  const missing: ChunkRef[] = [];
  for (const ref of file.chunks) {
    signal.throwIfAborted();
    const content = written.has(ref[0]) ? await readChunk(handle, ref[0], chunkBytes) : undefined;
    if (content === undefined || (await chunkSha256(content)) !== ref[1]) missing.push(ref);
  }
  return missing;
}
