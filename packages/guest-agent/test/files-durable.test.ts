/**
 * What the calls that change files sync, and when: unsynced changes are lost with the machine. The
 * tests record each fsync, its file, and the files that exist at that moment.
 */
import { fsyncSync } from "node:fs";
import {
  type FileHandle,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  realpath,
  rm,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { configFrom } from "../src/config.ts";
import { fileRoutes } from "../src/files/file-routes.ts";
import type { RoutedRequest } from "../src/http/router.ts";

let dir: string;
beforeEach(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), "torpor-files-")));
  for (const name of ["workspace", "var/lib/torpor/uploads"])
    await mkdir(join(dir, name), { recursive: true });
});
afterEach(async () => await rm(dir, { recursive: true, force: true }));

const at = (name: string) => join(dir, "workspace", name);

async function call(method: string, path: string, body: Record<string, unknown>): Promise<void> {
  const routes = fileRoutes(configFrom({ TORPOR_GUEST_ROOT: dir }));
  const route = routes.find((one) => one.method === method && one.path === path);
  await route?.handle({ body, query: new URLSearchParams() } as RoutedRequest);
}

/** The workspace: files with their content, directories with a slash. */
async function filesNow(): Promise<Record<string, string>> {
  const options = { recursive: true, withFileTypes: true } as const;
  const entries = await readdir(at(""), options);
  const views = entries.map(async (entry) => {
    const path = join(entry.parentPath, entry.name);
    const name = relative(at(""), path);
    return entry.isDirectory() ? [`${name}/`, ""] : [name, await readFile(path, "utf8")];
  });
  return Object.fromEntries(await Promise.all(views));
}

interface Sync {
  /** Path relative to the workspace; the content for a file that has no name there yet. */
  of: string;
  /** Files at the time of the call. */
  files: Record<string, string>;
}

/** Every fsync below the workspace that `body` makes, in order. */
async function syncsOf(body: () => Promise<void>): Promise<Sync[]> {
  const handle = await open(dir);
  const prototype = Object.getPrototypeOf(handle) as FileHandle;
  await handle.close();
  const syncs: Sync[] = [];
  const spy = vi.spyOn(prototype, "sync").mockImplementation(async function (this: FileHandle) {
    fsyncSync(this.fd);
    const of = relative(at(""), await readlink(`/proc/self/fd/${this.fd}`));
    const isContent = /^\.\.\/var\/lib\/torpor\/uploads\/./.test(of);
    if (isContent || !of.startsWith("../"))
      syncs.push({
        of: isContent ? await readFile(`/proc/self/fd/${this.fd}`, "utf8") : of,
        files: await filesNow(),
      });
  });
  try {
    await body();
  } finally {
    spy.mockRestore();
  }
  return syncs;
}

test("a file is synced before it gets its name, its directory after", async () => {
  await writeFile(at("note"), "old");
  expect(
    await syncsOf(() => call("POST", "/files/write", { path: "note", content: "new" })),
  ).toEqual([
    { of: "new", files: { note: "old" } },
    { of: "", files: { note: "new" } },
  ]);
});

test("so is one that must be new", async () => {
  const body = { path: "note", content: "new", overwrite: false };
  expect(await syncsOf(() => call("POST", "/files/write", body))).toEqual([
    { of: "new", files: {} },
    { of: "", files: { note: "new" } },
  ]);
});

test("each directory that is made on the way is in one that is synced", async () => {
  const made = { "a/": "", "a/b/": "" };
  expect(
    await syncsOf(() => call("POST", "/files/write", { path: "a/b/note", content: "new" })),
  ).toEqual([
    { of: "", files: { "a/": "" } },
    { of: "a", files: made },
    { of: "new", files: made },
    { of: "a/b", files: { ...made, "a/b/note": "new" } },
  ]);
});

test("so is each of mkdir, and one that was there a moment before", async () => {
  const body = { path: "a/b" };
  const made = { "a/": "", "a/b/": "" };
  expect(await syncsOf(() => call("POST", "/files/mkdir", body))).toEqual([
    { of: "", files: { "a/": "" } },
    { of: "a", files: made },
    { of: "a", files: made },
  ]);
  expect(await syncsOf(() => call("POST", "/files/mkdir", body))).toEqual([
    { of: "a", files: made },
  ]);
});

test.each(["file", "directory"])(
  "of a %s that is removed the directory is synced",
  async (kind) => {
    await mkdir(at("in/directory/below"), { recursive: true });
    await writeFile(at("in/file"), "");
    const kept = {
      "in/": "",
      ...(kind === "file" ? { "in/directory/": "", "in/directory/below/": "" } : { "in/file": "" }),
    };
    expect(await syncsOf(() => call("DELETE", "/files/remove", { path: `in/${kind}` }))).toEqual([
      { of: "in", files: kept },
    ]);
  },
);
