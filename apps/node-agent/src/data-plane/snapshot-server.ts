/**
 * Serves snapshots of this host to other hosts that are to run their sandboxes
 * (packages/contracts/src/host/data-plane.ts). The other host checks each chunk by its hash, so a
 * chunk that has changed meanwhile is never used.
 */
import { messageOf } from "@torpor/service";
import { open } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import {
  type SandboxId,
  SNAPSHOT_PATH,
  type SnapshotNamed,
  unverifiedSandboxId,
} from "@torpor/contracts";
import { CHUNK_BYTES, encodeChunk, encodeIndex } from "../store/format.ts";
import { indexOf, readChunk, type SnapshotCopy } from "../store/read-chunks.ts";
import { type Refusal, refuse } from "./refusal.ts";

/** Finds a snapshot on this host's disk; undefined if it is not here, or not the requested one. */
export type FindCopy = (
  sandboxId: SandboxId,
  generation: number,
  manifestSha256: string,
) => Promise<SnapshotCopy | undefined>;

/** Indexes in the cache: making one reads all files of the snapshot. */
const KEPT_INDEXES = 16;
const INDEX_LIMIT_MS = 270_000;
const NOT_HERE: Refusal = {
  code: "SNAPSHOT_NOT_HERE",
  message: "this host does not hold that snapshot",
};

export class SnapshotServer {
  private readonly findCopy: FindCopy;
  private readonly chunkBytes: number;
  private readonly indexes = new Map<string, Promise<Buffer>>();

  constructor(findCopy: FindCopy, chunkBytes: number = CHUNK_BYTES) {
    this.findCopy = findCopy;
    this.chunkBytes = chunkBytes;
  }

  /** Never rejects. */
  async answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const content = await this.contentFor(incoming);
      if (content === undefined) return refuse(incoming, response, NOT_HERE);
      response.writeHead(200, {
        "content-type": "application/octet-stream",
        "content-length": content.length,
      });
      response.end(content);
    } catch (error) {
      refuse(incoming, response, {
        code: "SNAPSHOT_UNREADABLE",
        message: messageOf(error),
      });
    }
  }

  private async contentFor(incoming: IncomingMessage): Promise<Buffer | undefined> {
    const { sandboxId, generation, manifestSha256, rest } = snapshotNamed(incoming.url ?? "/");
    const [what, at = "", file = ""] = rest;
    const copy =
      incoming.method === "GET"
        ? await this.findCopy(sandboxId, generation, manifestSha256)
        : undefined;
    if (copy === undefined) return undefined;
    if (what === "index")
      return await this.indexFor(`${sandboxId}/${generation}/${manifestSha256}`, copy);
    return what === "chunks"
      ? await chunkFor(copy, decodeURIComponent(file), Number(at), this.chunkBytes)
      : undefined;
  }

  private async indexFor(key: string, copy: SnapshotCopy): Promise<Buffer> {
    const known = this.indexes.get(key);
    if (known !== undefined) return await known;
    const signal = AbortSignal.timeout(INDEX_LIMIT_MS);
    const made = indexOf(copy, this.chunkBytes, { signal, take: async () => 0 }).then(encodeIndex);
    this.indexes.set(key, made);
    made.catch(() => this.indexes.delete(key));
    const [oldest] = this.indexes.keys();
    if (this.indexes.size > KEPT_INDEXES && oldest !== undefined) this.indexes.delete(oldest);
    return await made;
  }
}

/** The snapshot that a path below SNAPSHOT_PATH names, and the rest of the path. */
export function snapshotNamed(url: string): SnapshotNamed & { rest: string[] } {
  const { pathname = "" } = URL.parse(url, "http://host") ?? {};
  const [sandboxId = "", generation = "", manifestSha256 = "", ...rest] = pathname
    .slice(SNAPSHOT_PATH.length)
    .split("/");
  return {
    sandboxId: unverifiedSandboxId(sandboxId),
    generation: Number(generation),
    manifestSha256,
    rest,
  };
}

async function chunkFor(
  copy: SnapshotCopy,
  file: string,
  at: number,
  chunkBytes: number,
): Promise<Buffer | undefined> {
  const path = Object.hasOwn(copy.files, file) ? copy.files[file] : undefined;
  if (path === undefined || !Number.isSafeInteger(at) || at < 0) return undefined;
  const handle = await open(path);
  try {
    const content = await readChunk(handle, at, chunkBytes);
    return content === undefined ? undefined : await encodeChunk(content);
  } finally {
    await handle.close();
  }
}
