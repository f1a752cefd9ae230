/** Durable files: once a `...Durably` function has returned, its effect survives a power cut. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import {
  chmod,
  chown,
  type FileHandle,
  mkdir,
  open,
  readFile,
  rename,
  rm,
  stat,
  statfs,
} from "node:fs/promises";
import { basename, dirname } from "node:path";
import { promisify } from "node:util";
import { durableStep } from "./durable-step.ts";

const run = promisify(execFile);

export async function fsyncPath(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** tmp → fsync → rename → fsync(parent): readers see the old content or the new. */
export async function writeDurably(path: string, content: string, mode = 0o600): Promise<void> {
  await durableStep(`write ${basename(path)}`, async () => {
    const temporary = `${path}.tmp`;
    const handle = await open(temporary, "w", mode);
    try {
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
    await fsyncPath(dirname(path));
  });
}

export async function renameDurably(from: string, to: string): Promise<void> {
  await durableStep(`rename ${basename(from)} to ${basename(to)}`, async () => {
    await rename(from, to);
    await fsyncPath(dirname(to));
    if (dirname(from) !== dirname(to)) await fsyncPath(dirname(from));
  });
}

/** Removes a file or a tree. A missing path is no error. */
export async function removeDurably(path: string): Promise<void> {
  await durableStep(`remove ${basename(path)}`, async () => {
    await rm(path, { recursive: true, force: true });
    await fsyncPath(dirname(path));
  });
}

/** Parsed content; undefined if there is no such file; throws if the content is not JSON. */
export async function readJson<T>(path: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as T;
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

/** Size in bytes; undefined if there is no such file. */
export async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

/** Clones a file: shares blocks where the file system can, and keeps holes where it cannot. */
export async function copySparsely(from: string, to: string, signal?: AbortSignal): Promise<void> {
  await run(
    "cp",
    ["--reflink=auto", "--sparse=always", "--", from, to],
    signal === undefined ? {} : { signal },
  );
}

const BLOCK_BYTES = 1024 ** 2;

/** SHA-256 in hex. One buffer serves all blocks: a fresh one for each costs more than the hash. */
export async function sha256Of(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  const handle = await open(path);
  try {
    const buffer = Buffer.allocUnsafe(BLOCK_BYTES);
    for (;;) {
      signal?.throwIfAborted();
      const { bytesRead } = await handle.read(buffer, 0, BLOCK_BYTES, null);
      if (bytesRead === 0) return hash.digest("hex");
      hash.update(buffer.subarray(0, bytesRead));
    }
  } finally {
    await handle.close();
  }
}

export async function freeBytes(path: string): Promise<number> {
  const facts = await statfs(path);
  return facts.bavail * facts.bsize;
}

/** Makes a directory that a VMM's user may write to. */
export async function makeDirectoryFor(path: string, uid: number | undefined): Promise<void> {
  await mkdir(path, { recursive: true });
  await chmod(path, 0o700);
  if (uid !== undefined) await chown(path, uid, uid);
}

/**
 * Opens a file that an untrusted process may have replaced. Throws unless it is a plain file with
 * one name.
 */
export async function openUntrusted(path: string, flags: number): Promise<FileHandle> {
  const handle = await open(path, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  const facts = await handle.stat();
  if (facts.isFile() && facts.nlink === 1) return handle;
  await handle.close();
  throw new Error(`${path} is no plain file any more`);
}

export function isNotFound(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}
