/** GET /files/list: the entries of a directory. */
import type { Stats } from "node:fs";
import { lstat, readdir, stat } from "node:fs/promises";
import { withFileErrors } from "./file-errors.ts";
import { childOf, type NamedPlace, shownName } from "./names.ts";

const MAX_LISTED = 10_000;
/** Range of a Date, in milliseconds; the time of a file can be beyond it. */
const MAX_TIME_MS = 8.64e15;

export async function list(place: NamedPlace) {
  const names = await withFileErrors(place.shown, () =>
    readdir(place.bytes, { encoding: "buffer" }),
  );
  names.sort((one, other) => Buffer.compare(one, other));
  const all = new Set(names.map(keyOf));
  const looked = await Promise.all(
    names.slice(0, MAX_LISTED).map(async (name) => {
      const text = await shownName(name, (other) => all.has(keyOf(other)));
      return await entryOf(childOf(place, name, text), text);
    }),
  );
  const files = looked.filter((entry) => typeof entry === "object");
  const hidden = looked.filter((entry) => entry === "hidden").length;
  return {
    files,
    path: place.shown,
    count: files.length,
    ...(names.length > MAX_LISTED ? { truncated: true, total: names.length } : {}),
    ...(hidden > 0 ? { not_shown: hidden } : {}),
  };
}

const keyOf = (name: Buffer): string => name.toString("latin1");

/**
 * "gone": removed during the listing. "hidden": the entry exists, but its details cannot be read.
 */
async function entryOf({ bytes, shown }: NamedPlace, name: string) {
  try {
    const own = await lstat(bytes);
    // A broken link is shown as itself.
    const facts = own.isSymbolicLink() ? await stat(bytes).catch(() => own) : own;
    return viewOf(shown, name, own, facts);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT" ? "gone" : "hidden";
  }
}

/** Has both spellings of each field: the SDKs disagree. */
function viewOf(path: string, name: string, own: Stats, facts: Stats) {
  const isDirectory = facts.isDirectory();
  const timeMs = Math.min(Math.max(facts.mtimeMs, -MAX_TIME_MS), MAX_TIME_MS);
  const modified = new Date(timeMs).toISOString();
  return {
    name,
    path,
    size: facts.size,
    is_dir: isDirectory,
    is_directory: isDirectory,
    is_symlink: own.isSymbolicLink(),
    modified,
    modified_time: modified,
    permissions: (facts.mode & 0o7777).toString(8).padStart(4, "0"),
  };
}
