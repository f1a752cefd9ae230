/**
 * Format of the snapshot store. Files are cut into chunks that are named by their content; an index
 * of the chunks is written last. Keys:
 *
 * - `<sandboxId>/chunks/<sha256>.<bytes>`: a chunk, zstd. Its name has the SHA-256 of the content
 *   and the size as stored.
 * - `<sandboxId>/entries/<generation>-<manifest>`: an index; `<manifest>` is the first 16 digits of
 *   the manifest's SHA-256.
 * - `<sandboxId>/locks/writing-<entry>.<writer>`, and the same with `.alive`: a put adds to the
 *   sandbox (sweep.ts).
 * - `<sandboxId>/locks/sweeping.<sweeper>`: a sweep removes from the sandbox (sweep.ts).
 *
 * SF1  An entry is whole: its index is put after every chunk that it names. Before that, nothing
 *      names the chunks.
 * SF2  A stored chunk is not sent again: not by a put that continues after a failure, and not by
 *      the next snapshot, which shares most chunks with this one.
 * SF3  Chunks are shared within a sandbox, never between two: stored chunks reveal nothing about
 *      other sandboxes, and are removed with their sandbox.
 */
import { constants, zstdCompress, zstdDecompress } from "node:zlib";
import { createHash, webcrypto } from "node:crypto";
import { promisify } from "node:util";

export const CHUNK_BYTES = 4 * 1024 ** 2;

/**
 * Number of the chunk in its file, SHA-256 of its content (hex), size as stored (0 if not stored).
 */
export type ChunkRef = [at: number, sha256: string, storedBytes: number];

export interface StoredFile {
  sizeBytes: number;
  /** Ascending; chunks that are not named are zeros. */
  chunks: ChunkRef[];
}

export interface SnapshotIndex {
  format: 1;
  /** Content of manifest.json: the control plane knows the snapshot by its hash. */
  manifest: string;
  /** Content of the sandbox's vm.json. */
  record: string;
  chunkBytes: number;
  /** Files of the snapshot, and `disk.raw`. */
  files: Record<string, StoredFile>;
}

export const chunksBelow = (sandboxId: string) => `${sandboxId}/chunks/`;
export const entriesBelow = (sandboxId: string) => `${sandboxId}/entries/`;
export const locksBelow = (sandboxId: string) => `${sandboxId}/locks/`;
export const writingLock = (sandboxId: string, entry: string, writer: string) =>
  `${locksBelow(sandboxId)}writing-${entry}.${writer}`;
/** Renewed while the writer is alive. */
export const aliveLock = (lock: string) => `${lock}.alive`;
export const sweepingLock = (sandboxId: string, sweeper: string) =>
  `${sweepsBelow(sandboxId)}.${sweeper}`;
/** Prefix of every lock of a sweep, and the whole lock of a 0.1.0 host. */
export const sweepsBelow = (sandboxId: string) => `${locksBelow(sandboxId)}sweeping`;
export const chunkKey = (sandboxId: string, [, sha256, storedBytes]: ChunkRef) =>
  `${chunksBelow(sandboxId)}${sha256}.${storedBytes}`;

export const entryName = (generation: number, manifestSha256: string) =>
  `${generation}-${manifestSha256.slice(0, 16)}`;
/** The control plane's name of an entry. */
export const storeKeyOf = (sandboxId: string, entry: string) => `${sandboxId}/${entry}`;

/** Key of the index of `storeKey`. */
export function entryKey(storeKey: string): string {
  const [sandboxId = "", entry = ""] = storeKey.split("/");
  return `${entriesBelow(sandboxId)}${entry}`;
}

/** Hash and size from a chunk's name; undefined if the name is not a chunk's. */
export function parseChunkName(name: string): { sha256: string; storedBytes: number } | undefined {
  const match = /^([0-9a-f]{64})\.(\d+)$/.exec(name);
  return match === null ? undefined : { sha256: match[1] ?? "", storedBytes: Number(match[2]) };
}

export function sha256Hex(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

/** SHA-256 of a chunk, computed off the main thread. */
export async function chunkSha256(content: Uint8Array<ArrayBuffer>): Promise<string> {
  return Buffer.from(await webcrypto.subtle.digest("SHA-256", content)).toString("hex");
}

/**
 * The index behind its own hash: otherwise a flipped bit could put correct chunks in wrong places.
 */
export function encodeIndex(index: SnapshotIndex): Buffer {
  const body = JSON.stringify(index);
  return Buffer.from(`${sha256Hex(body)}\n${body}`);
}

/** Throws if the index is damaged, or of an unknown format. */
export function decodeIndex(content: Buffer): SnapshotIndex {
  const text = content.toString("utf8");
  const [sha256, body] = [text.slice(0, 64), text.slice(65)];
  if (sha256Hex(body) !== sha256) throw new Error("the index of the snapshot is damaged");
  const index = JSON.parse(body) as SnapshotIndex;
  if (index.format !== 1)
    throw new Error(
      `the index of the snapshot has format ${String(index.format)}, which this agent does not know`,
    );
  return index;
}

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);
/** The fastest level, which has to keep up with disks and networks. */
const ZSTD = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

export async function encodeChunk(content: Uint8Array): Promise<Buffer> {
  return await compress(content, ZSTD);
}

/** Content of a chunk. Throws if its hash is not `sha256`. */
export async function decodeChunk(
  stored: Uint8Array,
  sha256: string,
  chunkBytes: number,
): Promise<Buffer<ArrayBuffer>> {
  const content = Buffer.from(
    await decompress(stored, { maxOutputLength: chunkBytes }).catch((cause: unknown) => {
      throw new Error(`chunk ${sha256} is damaged: it cannot be unpacked`, { cause });
    }),
  );
  if ((await chunkSha256(content)) !== sha256)
    throw new Error(`chunk ${sha256} is damaged: its content is another`);
  return content;
}
