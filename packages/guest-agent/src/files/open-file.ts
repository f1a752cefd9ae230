import { constants, type Stats } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { AgentError } from "../errors.ts";
import { withFileErrors } from "./file-errors.ts";
import type { NamedPlace } from "./names.ts";

const CHUNK_BYTES = 64 * 1024;

export interface OpenFile {
  handle: FileHandle;
  facts: Stats;
}

/**
 * Opens a regular file for reading. Throws 400 for a directory, a pipe or a device: reading one
 * might never end.
 */
export async function openRegular({ bytes, shown: path }: NamedPlace): Promise<OpenFile> {
  return await withFileErrors(path, async () => {
    const handle = await open(bytes, constants.O_RDONLY | constants.O_NONBLOCK);
    const facts = await handle.stat();
    if (facts.isFile()) return { handle, facts };
    await handle.close();
    const what = facts.isDirectory() ? "a directory" : "no regular file";
    throw new AgentError(400, "INVALID_PATH", `${path} is ${what}`, { path });
  });
}

/**
 * The whole file, whatever size it claims: files of /proc claim 0, and a file may grow during the
 * read. Undefined for more than `limit` bytes.
 */
export async function readWhole(
  { handle, facts }: OpenFile,
  limit: number,
): Promise<Buffer | undefined> {
  if (facts.size > limit) return undefined;
  const parts: Buffer[] = [];
  // One byte more than the file claims, so that the next read can detect the end.
  let room = facts.size + 1;
  for (let total = 0; ; room = CHUNK_BYTES) {
    const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(room), 0, room, null);
    if (bytesRead === 0) return parts.length === 1 ? parts[0] : Buffer.concat(parts);
    total += bytesRead;
    if (total > limit) return undefined;
    parts.push(buffer.subarray(0, bytesRead));
  }
}
