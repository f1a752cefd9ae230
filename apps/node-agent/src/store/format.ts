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
import { type SandboxId, unverifiedSandboxId } from "@torpor/contracts";
import { type Static, Type } from "typebox";
import { jsonDecoder } from "../host/json.ts";
import { constants, zstdCompress, zstdDecompress } from "node:zlib";
import { createHash, webcrypto } from "node:crypto";
import { promisify } from "node:util";

export const CHUNK_BYTES = 4 * 1024 ** 2;
/** Limit of a chunk in an index, which another agent may have made with another size. */
const MAX_CHUNK_BYTES = 64 * 1024 ** 2;
/** Larger than any disk or memory of a sandbox. */
export const MAX_FILE_BYTES = 2 ** 46;
/** Names come from another host or the store: no name may lead out of a directory. */
export const FILE_NAME = "^[A-Za-z0-9][A-Za-z0-9._-]*$";

/**
 * Number of the chunk in its file, SHA-256 of its content (hex), size as stored (0 if not stored).
 */
const ChunkRef = Type.Tuple([
  Type.Integer({ minimum: 0, maximum: MAX_FILE_BYTES }),
  Type.String({ pattern: "^[0-9a-f]{64}$" }),
  Type.Integer({ minimum: 0, maximum: 2 * MAX_CHUNK_BYTES }),
]);
export type ChunkRef = Static<typeof ChunkRef>;

const StoredFile = Type.Object({
  sizeBytes: Type.Integer({ minimum: 0, maximum: MAX_FILE_BYTES }),
  /** Ascending; chunks that are not named are zeros. */
  chunks: Type.Array(ChunkRef),
});
export type StoredFile = Static<typeof StoredFile>;

const SnapshotIndex = Type.Object({
  format: Type.Literal(1),
  /** Content of manifest.json: the control plane knows the snapshot by its hash. */
  manifest: Type.String(),
  /** Content of the sandbox's vm.json. */
  record: Type.String(),
  chunkBytes: Type.Integer({ minimum: 1, maximum: MAX_CHUNK_BYTES }),
  /** Files of the snapshot, and `disk.raw`. */
  files: Type.Record(Type.String({ pattern: FILE_NAME }), StoredFile, {
    additionalProperties: false,
  }),
});
export type SnapshotIndex = Static<typeof SnapshotIndex>;
const decode = jsonDecoder(SnapshotIndex);

export const chunksBelow = (sandboxId: SandboxId) => `${sandboxId}/chunks/`;
export const entriesBelow = (sandboxId: SandboxId) => `${sandboxId}/entries/`;
export const locksBelow = (sandboxId: SandboxId) => `${sandboxId}/locks/`;
export const writingLock = (sandboxId: SandboxId, entry: string, writer: string) =>
  `${locksBelow(sandboxId)}writing-${entry}.${writer}`;
/** Renewed while the writer is alive. */
export const aliveLock = (lock: string) => `${lock}.alive`;
export const sweepingLock = (sandboxId: SandboxId, sweeper: string) =>
  `${sweepsBelow(sandboxId)}.${sweeper}`;
/** Prefix of every lock of a sweep, and the whole lock of a 0.1.0 host. */
export const sweepsBelow = (sandboxId: SandboxId) => `${locksBelow(sandboxId)}sweeping`;
export const chunkKey = (sandboxId: SandboxId, [, sha256, storedBytes]: ChunkRef) =>
  `${chunksBelow(sandboxId)}${sha256}.${storedBytes}`;

export const entryName = (generation: number, manifestSha256: string) =>
  `${generation}-${manifestSha256.slice(0, 16)}`;
/** The control plane's name of an entry. */
export const storeKeyOf = (sandboxId: SandboxId, entry: string) => `${sandboxId}/${entry}`;

/** The sandbox and the entry that a store key names. */
export function storedAs(storeKey: string): { sandboxId: SandboxId; entry: string } {
  const [sandboxId = "", entry = ""] = storeKey.split("/");
  return { sandboxId: unverifiedSandboxId(sandboxId), entry };
}

/** Key of the index of `storeKey`. */
export function entryKey(storeKey: string): string {
  const { sandboxId, entry } = storedAs(storeKey);
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

/** Throws if the index is damaged, of an unknown format, or out of bounds. */
export function decodeIndex(content: Buffer): SnapshotIndex {
  const text = content.toString("utf8");
  const [sha256, body] = [text.slice(0, 64), text.slice(65)];
  if (sha256Hex(body) !== sha256) throw new Error("the index of the snapshot is damaged");
  const index = decode("the index of the snapshot", body);
  for (const [name, { sizeBytes, chunks }] of Object.entries(index.files))
    if (chunks.some(([at]) => at * index.chunkBytes >= sizeBytes))
      throw new Error(`the index of the snapshot names a chunk beyond the end of ${name}`);
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
