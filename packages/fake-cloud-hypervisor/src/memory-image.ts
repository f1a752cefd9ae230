/**
 * The guest's RAM in memory-ranges: a file of exactly its size, with holes except in two places.
 * The first page holds the position and the hash of the guest's memory; the memory itself is at the
 * very end. So a truncated or changed file is detected: the guest is lost.
 */
import { createHash } from "node:crypto";
import { closeSync, fstatSync, openSync, readSync, writeSync } from "node:fs";

const PAGE_BYTES = 4096;
const MAGIC = Buffer.from("TOYGUEST");
const HEADER_BYTES = MAGIC.length + 8 + 8 + 32;

/** Undefined memory is that of a guest that was lost already: only zeros. */
export function writeImage(file: number, ramBytes: number, memory: Buffer | undefined): void {
  if (memory === undefined) return;
  const offset = ramBytes - Math.ceil(Math.max(memory.length, 1) / PAGE_BYTES) * PAGE_BYTES;
  if (offset < PAGE_BYTES)
    throw new Error(
      `${memory.length} bytes of the toy guest do not fit into ${ramBytes} bytes of RAM`,
    );
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.writeBigUInt64BE(BigInt(offset), MAGIC.length);
  header.writeBigUInt64BE(BigInt(memory.length), MAGIC.length + 8);
  hashOf(memory).copy(header, MAGIC.length + 16);
  writeSync(file, header, 0, header.length, 0);
  writeSync(file, memory, 0, memory.length, offset);
}

/**
 * The guest's memory; undefined if the file holds no guest that could continue. Throws if there is
 * no file.
 */
export function readImage(path: string): Buffer | undefined {
  const file = openSync(path, "r");
  try {
    const header = readAt(file, 0, HEADER_BYTES);
    if (!header.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
    const offset = Number(header.readBigUInt64BE(MAGIC.length));
    const length = Number(header.readBigUInt64BE(MAGIC.length + 8));
    if (offset + length > fstatSync(file).size) return undefined;
    const memory = readAt(file, offset, length);
    return hashOf(memory).equals(header.subarray(MAGIC.length + 16)) ? memory : undefined;
  } finally {
    closeSync(file);
  }
}

/** Zeros after the end of the file, as in the real one. */
function readAt(file: number, offset: number, length: number): Buffer {
  const content = Buffer.alloc(length);
  readSync(file, content, 0, length, offset);
  return content;
}

function hashOf(content: Buffer): Buffer {
  return createHash("sha256").update(content).digest();
}
