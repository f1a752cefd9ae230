/**
 * How a sandbox's snapshots are stored: their files cut into chunks that are named by what is in
 * them, and an index of the chunks, written last.
 *
 * | key | |
 * |---|---|
 * | `<sandboxId>/chunks/<sha256>.<bytes>` | a chunk, zstd; both of the name: the SHA-256 of the content, the size as stored |
 * | `<sandboxId>/entries/<generation>-<manifest>` | an index; `<manifest>`: the first 16 digits of the manifest's SHA-256 |
 * | `<sandboxId>/locks/writing-<entry>.<writer>`, with `.alive` too; `…/sweeping.<sweeper>` | somebody adds to what is there, or takes from it (sweep.ts) |
 *
 * SF1  An entry is whole: its index is put after every chunk that it names. Before that nothing
 *      names the chunks.
 * SF2  A chunk that is there is not sent again: not by a put that goes on after it broke off, and
 *      not by the next snapshot, which has most of it in common with this one.
 * SF3  Chunks are shared within a sandbox, never between two: what is stored says nothing about
 *      others, and goes with it.
 */
import { constants, zstdCompress, zstdDecompress } from "node:zlib";
import { createHash, webcrypto } from "node:crypto";
import { promisify } from "node:util";

export const CHUNK_BYTES = 4 * 1024 ** 2;

/**
 * Number of the chunk in its file, SHA-256 of its content (hex), size as stored; 0 where it is not.
 */
export type ChunkRef = [at: number, sha256: string, storedBytes: number];

export interface StoredFile {
  sizeBytes: number;
  /** Ascending; what is not named is zeros. */
  chunks: ChunkRef[];
}

export interface SnapshotIndex {
  format: 1;
  /** manifest.json as it is: its hash is what the control plane knows the snapshot by. */
  manifest: string;
  /** vm.json of the sandbox. */
  record: string;
  chunkBytes: number;
  /** Those of the snapshot, and `disk.raw`. */
  files: Record<string, StoredFile>;
}

export const chunksBelow = (sandboxId: string) => `${sandboxId}/chunks/`;
export const entriesBelow = (sandboxId: string) => `${sandboxId}/entries/`;
export const locksBelow = (sandboxId: string) => `${sandboxId}/locks/`;
export const writingLock = (sandboxId: string, entry: string, writer: string) =>
  `${locksBelow(sandboxId)}writing-${entry}.${writer}`;
/** Set again and again while the writer lives. */
export const aliveLock = (lock: string) => `${lock}.alive`;
export const sweepingLock = (sandboxId: string, sweeper: string) =>
  `${sweepsBelow(sandboxId)}.${sweeper}`;
/** What every lock of a sweep begins with; that of a 0.1.0 host is no more than this. */
export const sweepsBelow = (sandboxId: string) => `${locksBelow(sandboxId)}sweeping`;
export const chunkKey = (sandboxId: string, [, sha256, storedBytes]: ChunkRef) =>
  `${chunksBelow(sandboxId)}${sha256}.${storedBytes}`;

export const entryName = (generation: number, manifestSha256: string) =>
  `${generation}-${manifestSha256.slice(0, 16)}`;
/** What the control plane knows an entry by. */
export const storeKeyOf = (sandboxId: string, entry: string) => `${sandboxId}/${entry}`;

/** Key of the index of `storeKey`. */
export function entryKey(storeKey: string): string {
  const [sandboxId = "", entry = ""] = storeKey.split("/");
  return `${entriesBelow(sandboxId)}${entry}`;
}

/** Size of a chunk as its name says it; undefined for what is no chunk. */
export function parseChunkName(name: string): { sha256: string; storedBytes: number } | undefined {
  const match = /^([0-9a-f]{64})\.(\d+)$/.exec(name);
  return match === null ? undefined : { sha256: match[1] ?? "", storedBytes: Number(match[2]) };
}

export function sha256Hex(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

/** Of a chunk: not on the thread that everything else waits for. */
export async function chunkSha256(content: Uint8Array<ArrayBuffer>): Promise<string> {
  return Buffer.from(await webcrypto.subtle.digest("SHA-256", content)).toString("hex");
}

/**
 * With its own hash before it: a bit that flipped in it would otherwise put right chunks in wrong
 * places.
 */
export function encodeIndex(index: SnapshotIndex): Buffer {
  const body = JSON.stringify(index);
  return Buffer.from(`${sha256Hex(body)}\n${body}`);
}

/** Throws when it is not whole. */
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
/** The fastest: it has to keep up with disks and networks. */
const ZSTD = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

export async function encodeChunk(content: Uint8Array): Promise<Buffer> {
  return await compress(content, ZSTD);
}

/** The content of a chunk. Throws when it is not what `sha256` says. */
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
