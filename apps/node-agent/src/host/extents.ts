/**
 * Extents of a file: where it holds data. Node.js has no SEEK_DATA; GNU tar has, and writes the map
 * at the head of an archive, before the data.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { stat } from "node:fs/promises";
import { basename, dirname } from "node:path";
import type { Readable } from "node:stream";

export interface Extent {
  offset: number;
  sizeBytes: number;
}

const BLOCK_BYTES = 512;
/** Files up to this size may be stored inline, and hold data without a block. */
const MAX_INLINE_BYTES = 64 * 1024;
const MAX_HEADER_BYTES = 64 * 1024 ** 2;

/**
 * Extents in ascending order. A file that tar does not find sparse is one extent. Between extents
 * are only zeros, but extents may hold zeros too.
 */
export async function extentsOf(path: string, signal?: AbortSignal): Promise<Extent[]> {
  const facts = await stat(path);
  if (facts.size === 0 || (facts.blocks === 0 && facts.size > MAX_INLINE_BYTES)) return [];
  if (facts.blocks * BLOCK_BYTES >= facts.size) return [{ offset: 0, sizeBytes: facts.size }];
  const archive = [
    "--create",
    "--sparse",
    "--hole-detection=seek",
    "--format=posix",
    "--sparse-version=1.0",
    "--file=-",
  ];
  const tar = spawn("tar", [...archive, "--directory", dirname(path), "--", basename(path)], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const ended = once(tar, "close").catch(() => {});
  try {
    const extents = await sparseMap(new BlockReader(tar.stdout), signal);
    return (extents ?? [{ offset: 0, sizeBytes: facts.size }]).filter(
      ({ sizeBytes }) => sizeBytes > 0,
    );
  } finally {
    // Only the map is needed: the data is read elsewhere.
    tar.stdout.destroy();
    tar.kill("SIGKILL");
    await ended;
  }
}

/**
 * Reads the extended header, the header, and the map behind it (POSIX format, sparse version 1.0).
 * Undefined: the file has no holes.
 */
async function sparseMap(
  blocks: BlockReader,
  signal: AbortSignal | undefined,
): Promise<Extent[] | undefined> {
  let header = await blocks.next();
  if (header.toString("latin1", 156, 157) !== "x") return undefined;
  let extended = "";
  for (
    let left = Number.parseInt(header.toString("latin1", 124, 136), 8);
    left > 0;
    left -= BLOCK_BYTES
  )
    extended += (await blocks.next()).toString("latin1");
  if (!extended.includes("GNU.sparse.major=1")) return undefined;
  header = await blocks.next();
  const lines: number[] = [];
  let text = "";
  while (lines.length === 0 || lines.length < 1 + 2 * (lines[0] ?? 0)) {
    signal?.throwIfAborted();
    text += (await blocks.next()).toString("latin1");
    const whole = text.split("\n");
    text = whole.pop() ?? "";
    lines.push(...whole.map(Number));
  }
  const [count = 0, ...pairs] = lines;
  return Array.from({ length: count }, (_, at) => ({
    offset: pairs[2 * at] ?? 0,
    sizeBytes: pairs[2 * at + 1] ?? 0,
  }));
}

/** A stream in pieces of 512 bytes. */
class BlockReader {
  private readonly chunks: AsyncIterator<Buffer>;
  private rest: Buffer = Buffer.alloc(0);
  private readBytes = 0;

  constructor(stream: Readable) {
    this.chunks = (stream as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
  }

  async next(): Promise<Buffer> {
    while (this.rest.length < BLOCK_BYTES) {
      const more = await this.chunks.next();
      if (more.done === true)
        throw new Error("tar ended before it had said where the file holds data");
      this.rest = Buffer.concat([this.rest, more.value]);
      this.readBytes += more.value.length;
      if (this.readBytes > MAX_HEADER_BYTES)
        throw new Error("tar said nothing of where the file holds data");
    }
    const block = this.rest.subarray(0, BLOCK_BYTES);
    this.rest = this.rest.subarray(BLOCK_BYTES);
    return block;
  }
}
