/** Which paths file calls may touch. Symbolic links are resolved before a path is judged, so that none leads out of the allowed roots. */
import { realpath } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, normalize } from "node:path";
import type { Config } from "../config.ts";
import { AgentError, missingParameter } from "../errors.ts";

type Given = string | null | undefined;

/** The absolute, link-free path of what exists of `path`, with the rest appended. Throws 400 for a malformed path, 403 outside the roots. */
export async function locate(config: Config, path: Given): Promise<string> {
  const absolute = absoluteOf(config, path);
  return await allowed(config, absolute, await resolveExisting(absolute));
}

/** The same for the entry itself: a link at the end is not followed. */
export async function locateEntry(config: Config, path: Given): Promise<string> {
  const absolute = absoluteOf(config, path);
  return await allowed(config, absolute, join(await resolveExisting(dirname(absolute)), basename(absolute)));
}

export async function resolvedRoots(config: Config): Promise<string[]> {
  return await Promise.all(config.fileRoots.map((root) => realpath(root).catch(() => root)));
}

function absoluteOf(config: Config, path: Given): string {
  if (path === null || path === undefined || path === "") throw missingParameter("path");
  if (path.includes("\0")) throw new AgentError(400, "INVALID_PATH", '"path" holds a NUL character');
  const absolute = normalize(isAbsolute(path) ? path : join(config.workdir, path));
  return absolute.length > 1 ? absolute.replace(/\/+$/, "") : absolute;
}

async function allowed(config: Config, asked: string, resolved: string): Promise<string> {
  const roots = await resolvedRoots(config);
  if (roots.some((root) => resolved === root || resolved.startsWith(`${root}/`))) return resolved;
  const message = `${asked} is outside the directories that file calls may touch: ${config.fileRoots.join(", ")}`;
  throw new AgentError(403, "PATH_NOT_ALLOWED", message, { path: asked });
}

async function resolveExisting(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ELOOP" || code === "ENAMETOOLONG")
      throw new AgentError(400, "INVALID_PATH", `"path": ${(error as Error).message}`, { path });
    const parent = dirname(path);
    return parent === path ? path : join(await resolveExisting(parent), basename(path));
  }
}
