/**
 * Files that a VMM writes and a guest may fill or replace: only their end is read, and they are
 * truncated when too long.
 */
import { constants } from "node:fs";
import { isNotFound, openUntrusted } from "../host/files.ts";

const MAX_LOG_BYTES = 1024 ** 2;
const BLOCK_BYTES = 512;

/** The last `maxBytes` of a file; empty if the file does not exist. */
export async function readTail(path: string, maxBytes: number): Promise<string> {
  try {
    const handle = await openUntrusted(path, constants.O_RDONLY);
    try {
      const { size } = await handle.stat();
      const length = Math.min(size, maxBytes);
      const { buffer, bytesRead } = await handle.read(
        Buffer.alloc(length),
        0,
        length,
        size - length,
      );
      return buffer.toString("utf8", 0, bytesRead);
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (isNotFound(error)) return "";
    throw error;
  }
}

/**
 * Truncates the logs that use too much disk. Usage is measured in blocks: a writer without O_APPEND
 * continues at its old offset, after a hole.
 */
export async function trimLogs(paths: string[]): Promise<void> {
  for (const path of paths) {
    try {
      const handle = await openUntrusted(path, constants.O_WRONLY);
      try {
        if ((await handle.stat()).blocks * BLOCK_BYTES > MAX_LOG_BYTES) await handle.truncate(0);
      } finally {
        await handle.close();
      }
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }
}
