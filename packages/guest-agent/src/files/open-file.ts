import { constants, type Stats } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { AgentError } from "../errors.ts";
import { withFileErrors } from "./file-errors.ts";

export interface OpenFile {
  handle: FileHandle;
  facts: Stats;
}

/** Opens a regular file for reading. Throws 400 for a directory, a pipe, a device: to read one of these might never end. */
export async function openRegular(path: string): Promise<OpenFile> {
  return await withFileErrors(path, async () => {
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const facts = await handle.stat();
    if (facts.isFile()) return { handle, facts };
    await handle.close();
    throw new AgentError(400, "INVALID_PATH", `${path} is ${facts.isDirectory() ? "a directory" : "no regular file"}`, { path });
  });
}
