/** The files of a snapshot, chunk by chunk, without holes. */
import { type FileHandle, open, stat } from "node:fs/promises";
import type { SandboxId } from "@torpor/contracts";
import { extentsOf } from "../host/extents.ts";
import { inParallel } from "./blobs.ts";
import { type ChunkRef, chunkSha256, type SnapshotIndex, type StoredFile } from "./format.ts";

/** A snapshot to store, or to send to another host. Its files must not change meanwhile. */
export interface SnapshotCopy {
  sandboxId: SandboxId;
  generation: number;
  manifest: string;
  record: string;
  /** Paths by name in the snapshot. */
  files: Record<string, string>;
}

/** A chunk that is not all zeros. */
export interface ReadChunk {
  at: number;
  content: Buffer<ArrayBuffer>;
  sha256: string;
}

export interface CopyProgress {
  bytesDone: number;
  bytesTotal: number;
}

/** Chunks that are read, hashed, compressed and sent in parallel. */
const AT_ONCE = 4;

/** Numbers of the chunks that may hold data. */
export async function chunksWithData(
  path: string,
  chunkBytes: number,
  signal: AbortSignal,
): Promise<number[]> {
  const numbers = new Set<number>();
  for (const { offset, sizeBytes } of await extentsOf(path, signal)) {
    const last = Math.floor((offset + sizeBytes - 1) / chunkBytes);
    for (let at = Math.floor(offset / chunkBytes); at <= last; at += 1) numbers.add(at);
  }
  return [...numbers].toSorted((a, b) => a - b);
}

/** Content of a chunk; undefined if it is all zeros, or beyond the end. */
export async function readChunk(
  handle: FileHandle,
  at: number,
  chunkBytes: number,
): Promise<Buffer<ArrayBuffer> | undefined> {
  const buffer = Buffer.alloc(chunkBytes);
  let length = 0;
  while (length < chunkBytes) {
    const { bytesRead } = await handle.read(
      buffer,
      length,
      chunkBytes - length,
      at * chunkBytes + length,
    );
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  const content = buffer.subarray(0, length);
  return isZero(content) ? undefined : content;
}

const ZEROS = Buffer.alloc(64 * 1024);

function isZero(content: Buffer): boolean {
  for (let at = 0; at < content.length; at += ZEROS.length) {
    const part = content.subarray(at, at + ZEROS.length);
    if (!part.equals(ZEROS.subarray(0, part.length))) return false;
  }
  return true;
}

/**
 * Reads the whole snapshot and makes its index. `take` gets each chunk, several in parallel, and
 * returns how many bytes are stored for it.
 */
export async function indexOf(
  copy: SnapshotCopy,
  chunkBytes: number,
  options: {
    signal: AbortSignal;
    take: (chunk: ReadChunk) => Promise<number>;
    onProgress?: ((progress: CopyProgress) => void) | undefined;
  },
): Promise<SnapshotIndex> {
  const { signal, take, onProgress } = options;
  const plans = await Promise.all(
    Object.entries(copy.files).map(async ([name, path]) => {
      const { size } = await stat(path);
      return { name, path, size, numbers: await chunksWithData(path, chunkBytes, signal) };
    }),
  );
  const progress = {
    bytesDone: 0,
    bytesTotal: plans.reduce((sum, { numbers }) => sum + numbers.length * chunkBytes, 0),
  };
  onProgress?.(progress);
  const files: Record<string, StoredFile> = {};
  for (const { name, path, size, numbers } of plans) {
    const chunks: ChunkRef[] = [];
    const handle = await open(path);
    try {
      await inParallel(numbers, AT_ONCE, async (at) => {
        signal.throwIfAborted();
        const content = await readChunk(handle, at, chunkBytes);
        if (content !== undefined) {
          const sha256 = await chunkSha256(content);
          chunks.push([at, sha256, await take({ at, content, sha256 })]);
        }
        progress.bytesDone += chunkBytes;
        onProgress?.(progress);
      });
    } finally {
      await handle.close();
    }
    files[name] = { sizeBytes: size, chunks: chunks.toSorted(([a], [b]) => a - b) };
  }
  return { format: 1, manifest: copy.manifest, record: copy.record, chunkBytes, files };
}
