/** /files/*: reading and writing inside the allowed roots. */
import { constants } from "node:fs";
import { access, lstat, mkdir, readdir, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Config } from "../config.ts";
import { AgentError, invalidRequest } from "../errors.ts";
import { type Body, optionalBoolean, optionalString, stringField } from "../fields.ts";
import type { Request, Route } from "../http/router.ts";
import { download } from "./download.ts";
import { withFileErrors } from "./file-errors.ts";
import { openRegular } from "./open-file.ts";
import { locate, locateEntry, resolvedRoots } from "./paths.ts";
import { upload } from "./upload.ts";
import { modeOf, putInPlace, temporaryBeside } from "./write-file.ts";

const MAX_LISTED = 10_000;

export function fileRoutes(config: Config): Route[] {
  const pathIn = (request: Request) => request.query.get("path");
  return [
    { method: "GET", path: "/files/read", handle: (request) => read(config, request) },
    { method: "GET", path: "/files/download", handle: async (request) => await download(await locate(config, pathIn(request)), request) },
    { method: "GET", path: "/files/list", handle: async (request) => await list(await locate(config, pathIn(request) ?? config.workdir)) },
    { method: "GET", path: "/files/exists", handle: async (request) => await exists(await locate(config, pathIn(request))) },
    { method: "POST", path: "/files/write", handle: (request) => write(config, request.body) },
    { method: "POST", path: "/files/mkdir", handle: (request) => makeDirectory(config, request.body) },
    { method: "POST", path: "/files/upload", readsBody: true, handle: (request) => upload(config, request) },
    {
      method: "DELETE",
      path: "/files/remove",
      handle: async (request) => await remove(config, await locateEntry(config, pathIn(request) ?? optionalString(request.body, "path"))),
    },
  ];
}

/** Text as UTF-8, what is none of it replaced; `encoding=base64` gives the bytes. */
async function read(config: Config, { query }: Request) {
  const encoding = encodingOf(query.get("encoding") ?? undefined);
  const path = await locate(config, query.get("path"));
  const { handle, facts } = await openRegular(path);
  try {
    const limit = config.limits.readBytes;
    if (facts.size > limit)
      throw new AgentError(413, "INVALID_REQUEST", `${path} is larger than ${limit} bytes; use GET /files/download`, { path });
    const content = await withFileErrors(path, () => handle.readFile());
    return { content: content.toString(encoding), path, size: content.length, encoding };
  } finally {
    await handle.close();
  }
}

function encodingOf(value: string | undefined): "utf8" | "base64" {
  if (value === undefined || value === "utf8" || value === "utf-8") return "utf8";
  if (value === "base64") return "base64";
  throw invalidRequest('"encoding" must be "utf8" or "base64"');
}

async function list(path: string) {
  const names = (await withFileErrors(path, () => readdir(path))).sort();
  const entries = await Promise.all(names.slice(0, MAX_LISTED).map((name) => entryOf(join(path, name)).catch(() => undefined)));
  const files = entries.filter((entry) => entry !== undefined);
  return { files, path, count: files.length, ...(names.length > MAX_LISTED ? { truncated: true, total: names.length } : {}) };
}

/** Both spellings of each field: the SDKs disagree. */
async function entryOf(path: string) {
  const own = await lstat(path);
  const facts = own.isSymbolicLink() ? await stat(path).catch(() => own) : own;
  const isDirectory = facts.isDirectory();
  const modified = facts.mtime.toISOString();
  const permissions = (facts.mode & 0o7777).toString(8).padStart(4, "0");
  return {
    name: basename(path),
    path,
    size: facts.size,
    is_dir: isDirectory,
    is_directory: isDirectory,
    is_symlink: own.isSymbolicLink(),
    modified,
    modified_time: modified,
    permissions,
  };
}

async function exists(path: string) {
  const found = await access(path, constants.F_OK).then(
    () => true,
    () => false,
  );
  return { exists: found, path };
}

async function write(config: Config, body: Body) {
  const content = stringField(body, "content");
  const bytes = bytesOf(content, encodingOf(optionalString(body, "encoding")));
  const placement = { mode: modeOf(body["mode"]), overwrite: optionalBoolean(body, "overwrite") ?? true };
  const path = await locate(config, stringField(body, "path"));
  const temporary = temporaryBeside(path);
  await withFileErrors(path, async () => {
    try {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(temporary, bytes);
      await putInPlace(temporary, path, placement);
    } finally {
      await rm(temporary, { force: true }).catch(() => {});
    }
  });
  return { success: true, path, size: bytes.length, message: "File written", timestamp: new Date().toISOString() };
}

function bytesOf(content: string, encoding: "utf8" | "base64"): Buffer {
  if (encoding === "base64" && !/^[A-Za-z0-9+/_-]*={0,2}\s*$/.test(content)) throw invalidRequest('"content" is not base64');
  return Buffer.from(content, encoding);
}

async function makeDirectory(config: Config, body: Body) {
  const path = await locate(config, stringField(body, "path"));
  await withFileErrors(path, () => mkdir(path, { recursive: true }));
  return { success: true, path, message: "Directory created" };
}

async function remove(config: Config, path: string) {
  if ((await resolvedRoots(config)).includes(path)) throw new AgentError(400, "INVALID_PATH", `${path} itself cannot be removed`, { path });
  await withFileErrors(path, async () => {
    await lstat(path);
    await rm(path, { recursive: true, force: true });
  });
  return { success: true, path, message: "Removed" };
}
