/**
 * The paths that file calls may touch. Symbolic links are resolved before a path is checked, so no
 * link leads out of the allowed roots.
 */
import { readlink, stat } from "node:fs/promises";
import { isAbsolute } from "node:path";
import type { GuestAgentConfig } from "../config.ts";
import { AgentError, missingParameter } from "../errors.ts";
import { withFileErrors } from "./file-errors.ts";
import { nameIn, parentOf, type NamedPlace, placeIn, ROOT } from "./names.ts";

type Given = string | null | undefined;

/** The kernel's own limit. */
const MAX_LINKS = 40;
const MAX_PATH_BYTES = 4095;

/**
 * The link-free place of the existing part of `path`, with the rest appended. A link to a missing
 * file is followed too. Throws 400 for a malformed path, 403 outside the roots.
 */
export async function locate(config: GuestAgentConfig, path: Given): Promise<NamedPlace> {
  return await located(config, path, true);
}

/** Like `locate`, for the entry itself: a link at the end is not followed. */
export async function locateEntry(config: GuestAgentConfig, path: Given): Promise<NamedPlace> {
  return await located(config, path, false);
}

export async function isRoot(config: GuestAgentConfig, { bytes }: NamedPlace): Promise<boolean> {
  return (await resolvedRoots(config)).some((root) => root.bytes.equals(bytes));
}

async function located(
  config: GuestAgentConfig,
  path: Given,
  followsLast: boolean,
): Promise<NamedPlace> {
  const absolute = absoluteOf(config, path);
  const place = await resolve(absolute, followsLast);
  const roots = await resolvedRoots(config);
  if (roots.some((root) => isWithin(root.bytes, place.bytes))) return place;
  const allowed = config.fileRoots.join(", ");
  const message = `${absolute} is outside the directories that file calls may touch: ${allowed}`;
  throw new AgentError(403, "PATH_NOT_ALLOWED", message, { path: absolute });
}

const resolvedRoots = (config: GuestAgentConfig): Promise<NamedPlace[]> =>
  Promise.all(
    config.fileRoots.map((root) =>
      resolve(root, true).catch(() => ({ bytes: Buffer.from(root), shown: root })),
    ),
  );

const isWithin = (root: Buffer, bytes: Buffer): boolean =>
  bytes.subarray(0, root.length).equals(root) &&
  (bytes.length === root.length || bytes[root.length] === "/".charCodeAt(0));

function absoluteOf(config: GuestAgentConfig, path: Given): string {
  if (path === null || path === undefined || path === "") throw missingParameter("path");
  if (path.includes("\0")) throw invalidPath('"path" holds a NUL character');
  if (/\p{Surrogate}/u.test(path)) throw invalidPath('"path" holds half a surrogate pair');
  const absolute = isAbsolute(path) ? path : `${config.workdir}/${path}`;
  if (absolute.length > MAX_PATH_BYTES)
    throw invalidPath(`"path" is longer than ${MAX_PATH_BYTES} bytes`);
  return absolute.length > 1 ? absolute.replace(/\/$/, "") : absolute;
}

/** Resolves one component at a time, as the kernel does. */
async function resolve(path: string, followsLast: boolean): Promise<NamedPlace> {
  return await withFileErrors(path, async () => {
    let place = ROOT;
    let links = 0;
    // Parts from the caller are text; parts from a link are bytes.
    const todo: (string | Buffer)[] = path.split("/").filter((part) => part !== "" && part !== ".");
    for (let part = todo.shift(); part !== undefined; part = todo.shift()) {
      const name = typeof part === "string" ? await nameIn(place, part) : part;
      const next = await placeIn(place, name);
      const target = todo.length === 0 && !followsLast ? undefined : await targetOf(next);
      if (target !== undefined) {
        links += 1;
        if (links > MAX_LINKS) throw Object.assign(new Error("links"), { code: "ELOOP" });
        todo.unshift(...partsOf(target));
        if (target[0] === "/".charCodeAt(0)) place = ROOT;
      } else if (name.equals(PARENT)) {
        // A missing directory has no parent: `stat` throws.
        await stat(place.bytes);
        place = parentOf(place);
      } else place = next;
    }
    return place;
  });
}

const PARENT = Buffer.from("..");

const partsOf = (target: Buffer): Buffer[] =>
  target
    .toString("latin1")
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .map((part) => Buffer.from(part, "latin1"));

/** The target of a link; undefined if the entry is no link, or does not exist. */
async function targetOf({ bytes }: NamedPlace): Promise<Buffer | undefined> {
  try {
    return await readlink(bytes, { encoding: "buffer" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENAMETOOLONG") throw error;
    return undefined;
  }
}

const invalidPath = (message: string) => new AgentError(400, "INVALID_PATH", message);
