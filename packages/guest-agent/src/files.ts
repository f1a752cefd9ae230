/** /files/*: reading and writing inside the allowed roots. Symbolic links are resolved before a path is judged, so that a link cannot lead out of them. */
import { constants } from "node:fs";
import { access, chmod, lstat, mkdir, readdir, readFile, realpath, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, normalize } from "node:path";
import { randomBytes } from "node:crypto";
import type { Config } from "./config.ts";
import { AgentError, invalidRequest, missingParameter, optionalString, stringField } from "./errors.ts";
import type { Request, Route } from "./server.ts";

export function fileRoutes(config: Config): Route[] {
  const located = async (path: string | null | undefined) => await locate(config, path);
  return [
    { method: "GET", path: "/files/read", handle: async (request) => await read(await located(request.query.get("path"))) },
    {
      method: "GET",
      path: "/files/list",
      handle: async (request) => await list(await located(request.query.get("path") ?? config.workdir)),
    },
    { method: "GET", path: "/files/exists", handle: async (request) => await exists(config, request.query.get("path")) },
    {
      method: "POST",
      path: "/files/write",
      handle: async (request) => await write(await located(stringField(request.body, "path")), request),
    },
    {
      method: "POST",
      path: "/files/mkdir",
      handle: async (request) => await makeDirectory(await located(stringField(request.body, "path"))),
    },
    {
      method: "DELETE",
      path: "/files/remove",
      handle: async (request) => await remove(config, await located(request.query.get("path") ?? optionalString(request.body, "path"))),
    },
  ];
}

/** The absolute, link-free path of what exists of `path`, with the rest appended. Throws 400 for a malformed path, 403 outside the roots. */
async function locate(config: Config, path: string | null | undefined): Promise<string> {
  if (path === null || path === undefined || path === "") throw missingParameter("path");
  if (path.includes("\0")) throw new AgentError(400, "INVALID_PATH", "the path holds a NUL byte");
  const absolute = normalize(isAbsolute(path) ? path : join(config.workdir, path));
  const resolved = await resolveExisting(absolute);
  const roots = await Promise.all(config.fileRoots.map((root) => realpath(root).catch(() => root)));
  const isInside = roots.some((root) => resolved === root || resolved.startsWith(`${root}/`));
  if (!isInside)
    throw new AgentError(
      403,
      "PATH_NOT_ALLOWED",
      `${path} is outside the directories that file calls may touch: ${config.fileRoots.join(", ")}`,
      { path },
    );
  return resolved;
}

async function resolveExisting(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch {
    const parent = dirname(path);
    return parent === path ? path : join(await resolveExisting(parent), basename(path));
  }
}

async function read(path: string) {
  const content = await readFile(path).catch((error: unknown) => {
    throw fileError(error, path);
  });
  return { content: content.toString("utf8"), path, size: content.length };
}

async function list(path: string) {
  const names = await readdir(path).catch((error: unknown) => {
    throw fileError(error, path);
  });
  const entries = await Promise.all(names.toSorted().map((name) => entryOf(join(path, name)).catch(() => undefined)));
  const files = entries.filter((entry) => entry !== undefined);
  return { files, path, count: files.length };
}

/** Both spellings of each field: the SDKs disagree (hopx-contract.md 2.1). */
async function entryOf(path: string) {
  const facts = await stat(path).catch(() => lstat(path));
  const isDirectory = facts.isDirectory();
  const modified = facts.mtime.toISOString();
  const permissions = (facts.mode & 0o7777).toString(8).padStart(4, "0");
  return {
    name: basename(path),
    path,
    size: facts.size,
    is_dir: isDirectory,
    is_directory: isDirectory,
    modified,
    modified_time: modified,
    permissions,
  };
}

async function exists(config: Config, path: string | null) {
  const located = await locate(config, path);
  const found = await access(located, constants.F_OK).then(
    () => true,
    () => false,
  );
  return { exists: found, path: located };
}

async function write(path: string, request: Request) {
  const content = stringField(request.body, "content");
  const encoding = optionalString(request.body, "encoding");
  if (encoding !== undefined && encoding !== "base64" && encoding !== "utf8" && encoding !== "utf-8")
    throw invalidRequest('"encoding" must be "base64" or absent');
  const mode = modeOf(request.body["mode"]);
  const bytes = Buffer.from(content, encoding === "base64" ? "base64" : "utf8");
  try {
    await mkdir(dirname(path), { recursive: true });
    if (request.body["overwrite"] === false) {
      await writeFile(path, bytes, { flag: "wx" });
      await chmod(path, mode);
    } else {
      await replace(path, bytes, mode);
    }
  } catch (error) {
    throw fileError(error, path);
  }
  return { success: true, path, size: bytes.length, message: "File written", timestamp: new Date().toISOString() };
}

/** Readers see the old content or the new, never half of it. */
async function replace(path: string, bytes: Buffer, mode: number): Promise<void> {
  const isDirectory = await stat(path).then(
    (facts) => facts.isDirectory(),
    () => false,
  );
  if (isDirectory) throw new AgentError(400, "INVALID_PATH", `${path} is a directory`, { path });
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    await writeFile(temporary, bytes);
    await chmod(temporary, mode);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

function modeOf(value: unknown): number {
  if (value === undefined || value === null) return 0o644;
  const mode = typeof value === "string" && /^0?[0-7]{3,4}$/.test(value) ? Number.parseInt(value, 8) : value;
  if (typeof mode !== "number" || !Number.isInteger(mode) || mode < 0 || mode > 0o7777)
    throw invalidRequest('"mode" must be an octal string such as "0644"');
  return mode;
}

async function makeDirectory(path: string) {
  await mkdir(path, { recursive: true }).catch((error: unknown) => {
    throw fileError(error, path);
  });
  return { success: true, path, message: "Directory created" };
}

async function remove(config: Config, path: string) {
  if (config.fileRoots.includes(path)) throw new AgentError(400, "INVALID_PATH", `${path} itself cannot be removed`, { path });
  await lstat(path).catch((error: unknown) => {
    throw fileError(error, path);
  });
  await rm(path, { recursive: true, force: true });
  return { success: true, path, message: "Removed" };
}

function fileError(error: unknown, path: string): AgentError {
  if (error instanceof AgentError) return error;
  const code = (error as NodeJS.ErrnoException).code;
  const options = { path, cause: error };
  if (code === "ENOENT") return new AgentError(404, "FILE_NOT_FOUND", `${path} not found`, options);
  if (code === "EEXIST") return new AgentError(409, "FILE_ALREADY_EXISTS", `${path} exists already`, options);
  if (code === "ENOTDIR" || code === "EISDIR" || code === "ENAMETOOLONG")
    return new AgentError(400, "INVALID_PATH", `${path}: ${(error as Error).message}`, options);
  if (code === "EACCES" || code === "EPERM") return new AgentError(403, "PERMISSION_DENIED", `${path}: permission denied`, options);
  if (code === "ENOSPC") return new AgentError(400, "FILE_OPERATION_FAILED", `the sandbox's disk is full; remove something first`, options);
  return new AgentError(400, "FILE_OPERATION_FAILED", `${path}: ${(error as Error).message}`, options);
}
