/** Changes that are durable on return: the machine may die right after. */
import type { PathLike } from "node:fs";
import { constants, type FileHandle, mkdir, open, stat } from "node:fs/promises";
import { AgentError } from "../errors.ts";
import { parentOf, type NamedPlace } from "./names.ts";

/**
 * Syncs a file or a directory with its contents. Does nothing on a file system without such a call.
 */
export async function sync(path: PathLike): Promise<void> {
  await withHandle(path, async (handle) => {
    try {
      await handle.sync();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EINVAL") throw error;
    }
  });
}

export async function withHandle<T>(
  path: PathLike,
  use: (handle: FileHandle) => Promise<T>,
): Promise<T> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    return await use(handle);
  } finally {
    await handle.close();
  }
}

/**
 * Creates the directory and its missing parents. Throws 400 when one of them exists and is no
 * directory.
 *
 * Node's own `recursive` is not usable: it mistakes a full disk for a missing directory.
 */
export async function makeDirectories(place: NamedPlace, mode = 0o777): Promise<void> {
  if (await isDirectory(place)) return;
  const above = parentOf(place);
  await makeDirectories(above, mode);
  try {
    await mkdir(place.bytes, mode);
  } catch (error) {
    // A concurrent call may have created it.
    if ((error as NodeJS.ErrnoException).code !== "EEXIST" || !(await isDirectory(place)))
      throw error;
  }
  await sync(above.bytes);
}

async function isDirectory({ bytes, shown }: NamedPlace): Promise<boolean> {
  const facts = await stat(bytes).catch((error: NodeJS.ErrnoException) => {
    // ENOTDIR: a parent is a file. The call for that parent then names the file.
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
    throw error;
  });
  if (facts === undefined || facts.isDirectory()) return facts !== undefined;
  throw new AgentError(400, "INVALID_PATH", `${shown} is no directory`, { path: shown });
}
