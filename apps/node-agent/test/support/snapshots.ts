/**
 * Snapshots for tests of the store: a memory image and a sparse disk, whose content a test can
 * compare after a transfer.
 */
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { mkdir, open, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { SandboxId } from "@torpor/contracts";
import type { Blob, Blobs } from "../../src/store/blobs.ts";
import { FileBlobs } from "../../src/store/file-blobs.ts";
import type { SnapshotCopy } from "../../src/store/read-chunks.ts";

export const CHUNK = 64 * 1024;
const DISK_CHUNKS = 64;

export interface MadeSnapshot {
  copy: SnapshotCopy;
  manifestSha256: string;
}

/**
 * Makes a snapshot with `memory` chunks of memory, and a disk of 64 chunks that has data in the
 * named ones. The same `seed` makes the same content.
 */
export async function makeSnapshot(
  dir: string,
  given: {
    sandboxId: SandboxId;
    generation?: number;
    memory?: number;
    disk?: number[];
    seed?: string;
  },
): Promise<MadeSnapshot> {
  const { sandboxId, generation = 1, memory = 4, disk = [0, 7, 8, 40], seed = "" } = given;
  await mkdir(dir, { recursive: true });
  const content = (name: string) =>
    Buffer.concat(Array.from({ length: CHUNK / 32 }, (_, at) => sha256(`${seed} ${name} ${at}`)));
  const memoryFile = join(dir, "memory");
  const diskFile = join(dir, "disk.raw");
  // Not a whole number of chunks.
  await write(
    memoryFile,
    Array.from({ length: memory }, (_, at) => [at, content(`memory ${at}`)] as const),
    memory * CHUNK - 100,
  );
  await write(
    diskFile,
    disk.map((at) => [at, content(`disk ${at}`)] as const),
    DISK_CHUNKS * CHUNK,
  );
  const manifest = JSON.stringify({
    sandboxId,
    generation,
    files: { memory: {} },
    made: randomBytes(8).toString("hex"),
  });
  const copy = {
    sandboxId,
    generation,
    manifest,
    record: "{}",
    files: { memory: memoryFile, "disk.raw": diskFile },
  };
  return { copy, manifestSha256: createHash("sha256").update(manifest).digest("hex") };
}

async function write(
  path: string,
  chunks: (readonly [number, Buffer])[],
  sizeBytes: number,
): Promise<void> {
  const handle = await open(path, "w");
  try {
    for (const [at, content] of chunks) await handle.write(content, 0, content.length, at * CHUNK);
    await handle.truncate(sizeBytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

/** Per file: hash of the content, and size. */
export async function facts(
  paths: Record<string, string>,
): Promise<Record<string, { sha256: string; sizeBytes: number }>> {
  const all: Record<string, { sha256: string; sizeBytes: number }> = {};
  for (const [name, path] of Object.entries(paths)) {
    const content = await readFile(path);
    all[name] = {
      sha256: createHash("sha256").update(content).digest("hex"),
      sizeBytes: content.length,
    };
  }
  return all;
}

export async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512;
}

/** Blobs in a directory, which is created. */
export function fileBlobs(dir: string): FileBlobs {
  mkdirSync(dir, { recursive: true });
  return new FileBlobs(dir);
}

type Call = "put" | "get" | "list" | "remove";

/** Blobs that record their calls, and fail when a test wants it. */
export class WatchedBlobs implements Blobs {
  readonly name: string;
  readonly calls: { call: Call; key: string; bytes: number }[] = [];
  /** Called before each call, which waits for it; if it throws, the call fails. */
  before: (call: Call, key: string, nth: number) => void | Promise<void> = () => {};
  private readonly inner: Blobs;

  constructor(inner: Blobs) {
    this.inner = inner;
    this.name = inner.name;
  }

  private async note(call: Call, key: string, bytes = 0): Promise<void> {
    await this.before(call, key, this.calls.length + 1);
    this.calls.push({ call, key, bytes });
  }

  /** Chunks that were put since the last `forget`. */
  sent(): string[] {
    return this.calls
      .filter(({ call, key }) => call === "put" && key.includes("/chunks/"))
      .map(({ key }) => key);
  }

  got(): string[] {
    return this.calls
      .filter(({ call, key }) => call === "get" && key.includes("/chunks/"))
      .map(({ key }) => key);
  }

  forget(): void {
    this.calls.length = 0;
    this.before = () => {};
  }

  async put(key: string, content: Uint8Array, signal: AbortSignal): Promise<void> {
    await this.note("put", key, content.byteLength);
    await this.inner.put(key, content, signal);
  }

  async get(key: string, signal: AbortSignal): Promise<Buffer | undefined> {
    await this.note("get", key);
    return await this.inner.get(key, signal);
  }

  async *list(prefix: string, signal: AbortSignal): AsyncIterable<Blob> {
    await this.note("list", prefix);
    yield* this.inner.list(prefix, signal);
  }

  async *roots(signal: AbortSignal): AsyncIterable<string> {
    await this.note("list", "");
    yield* this.inner.roots(signal);
  }

  async remove(key: string, signal: AbortSignal): Promise<void> {
    await this.note("remove", key);
    await this.inner.remove(key, signal);
  }
}

/**
 * Blobs that list locks with such a name, by default those of writers, as older than they are by
 * this amount.
 */
export class AgedLocks extends WatchedBlobs {
  private readonly agedMs: number;
  private readonly names: string;

  constructor(inner: Blobs, agedMs: number, names = "writing-") {
    super(inner);
    this.agedMs = agedMs;
    this.names = names;
  }

  override async *list(prefix: string, signal: AbortSignal): AsyncIterable<Blob> {
    for await (const blob of super.list(prefix, signal))
      yield blob.key.includes(`/locks/${this.names}`)
        ? { ...blob, modifiedAtMs: blob.modifiedAtMs - this.agedMs }
        : blob;
  }
}

/** Holds puts before their last step, until `release` or an abort. */
export function holdEntries(blobs: Blobs): { held: Promise<void>; release: () => void } {
  const put = blobs.put.bind(blobs);
  const [reached, released] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  blobs.put = async (key, content, signal) => {
    if (key.includes("/entries/")) {
      reached.resolve();
      const aborted = new Promise((resolve) =>
        signal.addEventListener("abort", resolve, { once: true }),
      );
      if (!signal.aborted) await Promise.race([released.promise, aborted]);
      signal.throwIfAborted();
    }
    await put(key, content, signal);
  };
  return { held: reached.promise, release: released.resolve };
}
