/**
 * Puts a whole file in its place: readers see the old content or the new, never half of it, and
 * what is in its place is on the disk.
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
  /** Undefined: that of the file before, or 0644. */
  mode: number | undefined;
  overwrite: boolean;
}

/** What a file has besides its content. Of undefined owners stays what is there. */
interface Attributes {
  mode: number;
  uid: number | undefined;
  gid: number | undefined;
}

const NEW_FILE_MODE = 0o644;
const SET_GROUP_BIT = 0o2000;

/**
 * Calls `fill` with the name of a file that is to be made, and puts that in its place by
 * `putInPlace`; nothing is left of it when one of them fails. It is outside of the directories that
 * callers see: none of them lists or watches a file that is not whole.
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
 * Moves `temporary` to its place; makes the directories above it. A file that it takes the place of
 * leaves it its owner and, without a `mode`, its mode, the set-user-ID bit too. Throws 400 when
 * something else is there, 409 when a file is there and must not be.
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
    // A link fails when the name is taken, a rename replaces it.
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

/** A new file is in the group of a directory that says so, as every program's is. */
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

/** The owner first: a change of it takes the set-user-ID bit away. */
async function finish(file: PathLike, attributes: Attributes): Promise<void> {
  await withHandle(file, async (handle) => {
    const now = await handle.stat();
    const { uid = now.uid, gid = now.gid, mode } = attributes;
    if (uid !== now.uid || gid !== now.gid) await handle.chown(uid, gid);
    await handle.chmod(mode);
    await handle.sync();
  });
}

/** For a directory of another file system, which nothing can be moved to from elsewhere. */
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
 * Permission bits, as the SDKs send them: "0644". A number would be read as decimal by some.
 * Throws 400.
 */
export function modeOf(value: unknown): number | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string" || !/^0?[0-7]{3,4}$/.test(value))
    throw invalidRequest('"mode" must be an octal string such as "0644"');
  return Number.parseInt(value, 8) & 0o7777;
}
