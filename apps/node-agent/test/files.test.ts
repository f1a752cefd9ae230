/**
 * Syncs of host/files.ts and of the sealing of a snapshot: a power cut loses what is not synced.
 * The test records each fsync, with its file and the content of the directory at that moment.
 */
import { fsyncSync } from "node:fs";
import {
  type FileHandle,
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  writeFile,
} from "node:fs/promises";
import { join, relative } from "node:path";
import { tempDir } from "@torpor/testkit/basics";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { removeDurably, renameDurably, writeDurably } from "../src/host/files.ts";
import { type Manifest } from "../src/lifecycle/manifest.ts";
import { sealSnapshot } from "../src/lifecycle/snapshot.ts";

let dir: Awaited<ReturnType<typeof tempDir>>;
beforeEach(async () => {
  dir = await tempDir();
});
afterEach(async () => {
  await dir[Symbol.asyncDispose]();
});
const at = (name: string) => join(dir.path, name);

/** Every file below the directory, with its content. */
async function filesNow(): Promise<Record<string, string>> {
  const entries = await readdir(dir.path, { recursive: true, withFileTypes: true });
  const paths = entries
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name));
  const read = async (path: string) => [relative(dir.path, path), await readFile(path, "utf8")];
  return Object.fromEntries(await Promise.all(paths.map(read)));
}

interface Sync {
  /** Path of the synced file, relative to the directory. */
  of: string;
  /** Files at the moment of the call. */
  files: Record<string, string>;
}

/** Every fsync of `body`, in order. */
async function syncsOf(body: () => Promise<void>): Promise<Sync[]> {
  const handle = await open(dir.path);
  const prototype = Object.getPrototypeOf(handle) as FileHandle;
  await handle.close();
  const syncs: Sync[] = [];
  const spy = vi.spyOn(prototype, "sync").mockImplementation(async function (this: FileHandle) {
    const of = relative(dir.path, await readlink(`/proc/self/fd/${this.fd}`));
    syncs.push({ of, files: await filesNow() });
    fsyncSync(this.fd);
  });
  try {
    await body();
  } finally {
    spy.mockRestore();
  }
  return syncs;
}

describe("what a function has returned from is durable", () => {
  test("a file is synced before it gets its name, its directory after", async () => {
    await writeFile(at("note"), "old");
    expect(await syncsOf(() => writeDurably(at("note"), "new"))).toEqual([
      { of: "note.tmp", files: { note: "old", "note.tmp": "new" } },
      { of: "", files: { note: "new" } },
    ]);
  });

  test("of a rename both directories are synced, the new one first", async () => {
    for (const name of ["here", "there"]) await mkdir(at(name));
    await writeFile(at("here/note"), "kept");
    const files = { "there/note": "kept" };
    expect(await syncsOf(() => renameDurably(at("here/note"), at("there/note")))).toEqual([
      { of: "there", files },
      { of: "here", files },
    ]);
  });

  test("of what is removed the directory is synced", async () => {
    await writeFile(at("note"), "old");
    expect(await syncsOf(() => removeDurably(at("note")))).toEqual([{ of: "", files: {} }]);
  });
});

test("SN1: a snapshot gets its name once disk, manifest and directory are synced", async () => {
  await mkdir(at("snap.3.tmp"));
  for (const name of ["disk.raw", "snap.3.tmp/memory"]) await writeFile(at(name), "");
  const syncs = await syncsOf(() => sealSnapshot(dir.path, { generation: 3 } as Manifest));
  const named = syncs.findIndex(({ files }) => files["snap.3/manifest.json"] !== undefined);
  expect(syncs.slice(0, named).map(({ of }) => of)).toEqual([
    "disk.raw",
    "snap.3.tmp/manifest.json.tmp",
    "snap.3.tmp",
    "snap.3.tmp",
  ]);
  expect(syncs.slice(named)).toEqual([
    {
      of: "",
      files: { "disk.raw": "", "snap.3/memory": "", "snap.3/manifest.json": '{"generation":3}' },
    },
  ]);
});
