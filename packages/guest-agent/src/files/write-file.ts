/**
 * Puts a complete file in its place: readers see the old content or the new, never a part, and the
 * new content is durable.
 */
import { constants, copyFile, link, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { PathLike, Stats } from "node:fs";
import type { GuestAgentConfig } from "../config.ts";
import { AgentError, invalidRequest } from "../errors.ts";
import { randomId } from "../random.ts";
import { makeDirectories, sync, withHandle } from "./durable.ts";
import { withFileErrors } from "./file-errors.ts";
import { childOf, parentOf, type NamedPlace } from "./names.ts";

export interface FilePlacement {
  /** Undefined keeps the mode of the existing file, or is 0644 for a new one. */
  mode: number | undefined;
  overwrite: boolean;
}

/** Attributes of a file besides its content. An undefined owner leaves the current one. */
interface Attributes {
  mode: number;
  uid: number | undefined;
  gid: number | undefined;
}

const NEW_FILE_MODE = 0o644;
const SET_GROUP_BIT = 0o2000;

/**
 * Calls `fill` with the path of a temporary file, which `fill` writes and moves by `putInPlace`.
 * Removes what is left of the file in any case. The path is outside the directories that callers
 * see: none of them lists or watches an incomplete file.
 */
export async function withTemporary<T>(
  { uploadDir }: GuestAgentConfig,
  fill: (temporary: string) => Promise<T>,
): Promise<T> {
  const temporary = join(uploadDir, randomId(12));
  const directory = { bytes: Buffer.from(uploadDir), shown: uploadDir };
  await withFileErrors(uploadDir, () => makeDirectories(directory, 0o700));
  try {
    return await fill(temporary);
  } finally {
    await rm(temporary, { force: true }).catch(() => {});
  }
}

/**
 * Moves `temporary` to its place; creates missing parent directories. A file that is replaced
 * passes on its owner and, without a `mode`, its mode, including the set-user-ID bit. Throws 400
 * when something other than a file is there, 409 when a file is there and `overwrite` is false.
 */
export async function putInPlace(
  temporary: string,
  place: NamedPlace,
  { mode, overwrite }: FilePlacement,
): Promise<void> {
  await withFileErrors(place.shown, async () => {
    const before = await fileBefore(place, overwrite);
    const directory = parentOf(place);
    await makeDirectories(directory);
    const attributes = await attributesOf(mode, before, directory);
    // `link` fails when the name is taken; `rename` replaces it.
    const put = overwrite ? rename : link;
    await finish(temporary, attributes);
    try {
      await put(temporary, place.bytes);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EXDEV") throw error;
      await copyBeside(temporary, directory, async (copy) => {
        await finish(copy, attributes);
        await put(copy, place.bytes);
      });
    }
    await sync(directory.bytes);
  });
}

async function fileBefore(
  { bytes, shown }: NamedPlace,
  overwrite: boolean,
): Promise<Stats | undefined> {
  const facts = await stat(bytes).catch(() => undefined);
  if (facts === undefined || facts.isFile()) return facts;
  const what = facts.isDirectory() ? "a directory" : "no regular file";
  if (facts.isDirectory() || overwrite)
    throw new AgentError(400, "INVALID_PATH", `${shown} is ${what}`, { path: shown });
  return facts;
}

/** A new file gets the group of a directory with the set-group-ID bit, as with every program. */
async function attributesOf(
  mode: number | undefined,
  before: Stats | undefined,
  directory: NamedPlace,
): Promise<Attributes> {
  if (before !== undefined)
    return { mode: mode ?? before.mode & 0o7777, uid: before.uid, gid: before.gid };
  const above = await stat(directory.bytes);
  const gid = (above.mode & SET_GROUP_BIT) === 0 ? undefined : above.gid;
  return { mode: mode ?? NEW_FILE_MODE, uid: undefined, gid };
}

/** Sets the owner first: a change of owner clears the set-user-ID bit. */
async function finish(file: PathLike, attributes: Attributes): Promise<void> {
  await withHandle(file, async (handle) => {
    const now = await handle.stat();
    const { uid = now.uid, gid = now.gid, mode } = attributes;
    if (uid !== now.uid || gid !== now.gid) await handle.chown(uid, gid);
    await handle.chmod(mode);
    await handle.sync();
  });
}

/** For a place on another file system, to which the temporary file cannot be renamed. */
async function copyBeside(
  file: string,
  directory: NamedPlace,
  use: (copy: Buffer) => Promise<void>,
): Promise<void> {
  const name = `.${randomId(12)}.tmp`;
  const { bytes } = childOf(directory, Buffer.from(name), name);
  try {
    await copyFile(file, bytes, constants.COPYFILE_EXCL);
    await use(bytes);
  } finally {
    await rm(bytes, { force: true }).catch(() => {});
  }
}

/**
 * Permission bits as the SDKs send them: "0644". A number is refused: some callers would mean
 * decimal. Throws 400.
 */
export function modeOf(value: unknown): number | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string" || !/^0?[0-7]{3,4}$/.test(value))
    throw invalidRequest('"mode" must be an octal string such as "0644"');
  return Number.parseInt(value, 8) & 0o7777;
}
