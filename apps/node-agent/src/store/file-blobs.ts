/**
 * Blobs as files in a directory that all hosts share (a mounted file system).
 *
 * FB1  The directory itself is never created here: if it is not mounted, it would be on this host's
 *      own disk, and lost with the host.
 */
import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fsyncPath, isNotFound } from "../host/files.ts";
import type { Blob, Blobs } from "./blobs.ts";

export class FileBlobs implements Blobs {
  readonly name: string;
  private readonly dir: string;

  constructor(dir: string) {
    this.dir = dir;
    this.name = dir;
  }

  async put(key: string, content: Uint8Array, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const path = join(this.dir, key);
    await this.assertThere();
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const temporary = `${path}.${randomBytes(4).toString("hex")}.tmp`;
    try {
      const handle = await open(temporary, "wx", 0o600);
      try {
        await handle.writeFile(content);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
    await fsyncPath(dirname(path));
  }

  /** FB1 */
  private async assertThere(): Promise<void> {
    const facts = await stat(this.dir).catch(undefinedIfNotFound);
    if (facts === undefined)
      throw new Error(
        `the snapshot store's directory ${this.dir} is not there: make it and mount it`,
      );
  }

  async get(key: string, signal: AbortSignal): Promise<Buffer | undefined> {
    return await readFile(join(this.dir, key), { signal }).catch(undefinedIfNotFound);
  }

  /** Half-written files are listed too, so that a sweep removes them. */
  async *list(prefix: string, signal: AbortSignal): AsyncIterable<Blob> {
    const below = join(this.dir, prefix);
    const entries =
      (await readdir(below, { recursive: true, withFileTypes: true }).catch(undefinedIfNotFound)) ??
      [];
    for (const entry of entries) {
      signal.throwIfAborted();
      if (!entry.isFile()) continue;
      const path = join(entry.parentPath, entry.name);
      const facts = await stat(path).catch(undefinedIfNotFound);
      if (facts !== undefined)
        yield {
          key: path.slice(join(this.dir, "/").length),
          sizeBytes: facts.size,
          modifiedAtMs: facts.mtimeMs,
        };
    }
  }

  async *roots(): AsyncIterable<string> {
    const entries =
      (await readdir(this.dir, { withFileTypes: true }).catch(undefinedIfNotFound)) ?? [];
    for (const entry of entries) if (entry.isDirectory()) yield entry.name;
  }

  /** Removes the file, and the directories that become empty. */
  async remove(key: string): Promise<void> {
    await rm(join(this.dir, key), { force: true });
    for (let dir = dirname(key); dir !== "."; dir = dirname(dir)) {
      const isEmpty = await rmdir(join(this.dir, dir)).then(
        () => true,
        () => false,
      );
      if (!isEmpty) return;
    }
  }
}

function undefinedIfNotFound(error: unknown): undefined {
  if (isNotFound(error)) return undefined;
  throw error;
}
