/**
 * The files of a simulated guest, on a disk image of constant size: a length, then JSON of that
 * length.
 */
import { closeSync, fsyncSync, openSync, readSync, writeSync } from "node:fs";

const HEADER_BYTES = 8;

export function readDisk(path: string): Record<string, string> {
  const file = openSync(path, "r");
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    readSync(file, header, 0, HEADER_BYTES, 0);
    const content = Buffer.alloc(Number(header.readBigUInt64BE()));
    readSync(file, content, 0, content.length, HEADER_BYTES);
    return content.length === 0
      ? {}
      : (JSON.parse(content.toString("utf8")) as Record<string, string>);
  } finally {
    closeSync(file);
  }
}

export function writeDisk(path: string, files: Record<string, string>): void {
  const content = Buffer.from(JSON.stringify(files));
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeBigUInt64BE(BigInt(content.length));
  const file = openSync(path, "r+");
  try {
    writeSync(file, Buffer.concat([header, content]), 0, header.length + content.length, 0);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
