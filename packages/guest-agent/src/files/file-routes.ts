/** /files/*: reading and writing inside the allowed roots. */
import { access, stat, writeFile } from "node:fs/promises";
import type { GuestAgentConfig } from "../config.ts";
import { AgentError, invalidRequest } from "../errors.ts";
import { type Body, optionalBoolean, optionalString, stringField } from "../fields.ts";
import type { RoutedRequest, Route } from "../http/router.ts";
import { download } from "./download.ts";
import { makeDirectories, sync } from "./durable.ts";
import { withFileErrors } from "./file-errors.ts";
import { list } from "./list.ts";
import { parentOf, type NamedPlace } from "./names.ts";
import { openRegular, readWhole } from "./open-file.ts";
import { locate, locateEntry } from "./paths.ts";
import { remove } from "./remove.ts";
import { upload } from "./upload.ts";
import { modeOf, putInPlace, withTemporary } from "./write-file.ts";

export function fileRoutes(config: GuestAgentConfig): Route[] {
  const pathIn = (request: RoutedRequest) => request.query.get("path");
  const at = async (request: RoutedRequest) => await locate(config, pathIn(request));
  return [
    { method: "GET", path: "/files/read", handle: (request) => read(config, request) },
    {
      method: "GET",
      path: "/files/download",
      handle: async (request) => await download(await at(request), request),
    },
    {
      method: "GET",
      path: "/files/list",
      handle: async (request) =>
        await list(await locate(config, pathIn(request) ?? config.workdir)),
    },
    {
      method: "GET",
      path: "/files/exists",
      handle: async (request) => await exists(await at(request)),
    },
    { method: "POST", path: "/files/write", handle: (request) => write(config, request.body) },
    {
      method: "POST",
      path: "/files/mkdir",
      handle: (request) => makeDirectory(config, request.body),
    },
    {
      method: "POST",
      path: "/files/upload",
      readsBody: true,
      handle: (request) => upload(config, request),
    },
    {
      method: "DELETE",
      path: "/files/remove",
      handle: async (request) => {
        const path = pathIn(request) ?? optionalString(request.body, "path");
        return await remove(config, await locateEntry(config, path));
      },
    },
  ];
}

/** Text as UTF-8, with invalid bytes replaced; `encoding=base64` returns the exact bytes. */
async function read(config: GuestAgentConfig, { query }: RoutedRequest) {
  const encoding = encodingOf(query.get("encoding") ?? undefined);
  const place = await locate(config, query.get("path"));
  const path = place.shown;
  const file = await openRegular(place);
  try {
    const limit = config.limits.readBytes;
    const content = await withFileErrors(path, () => readWhole(file, limit));
    if (content === undefined) {
      const message = `${path} is larger than ${limit} bytes; use GET /files/download`;
      throw new AgentError(413, "INVALID_REQUEST", message, { path });
    }
    return { content: content.toString(encoding), path, size: content.length, encoding };
  } finally {
    await file.handle.close();
  }
}

function encodingOf(value: string | undefined): "utf8" | "base64" {
  if (value === undefined || value === "utf8" || value === "utf-8") return "utf8";
  if (value === "base64") return "base64";
  throw invalidRequest('"encoding" must be "utf8" or "base64"');
}

async function exists({ bytes, shown }: NamedPlace) {
  const found = await withFileErrors(shown, () =>
    access(bytes).then(
      () => true,
      (error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT" || error.code === "ENOTDIR") return false;
        throw error;
      },
    ),
  );
  return { exists: found, path: shown };
}

async function write(config: GuestAgentConfig, body: Body) {
  const content = stringField(body, "content");
  const bytes = bytesOf(content, encodingOf(optionalString(body, "encoding")));
  const overwrite = optionalBoolean(body, "overwrite") ?? true;
  const placement = { mode: modeOf(body["mode"]), overwrite };
  const place = await locate(config, stringField(body, "path"));
  const path = place.shown;
  await withTemporary(config, async (temporary) => {
    await withFileErrors(path, () => writeFile(temporary, bytes, { flag: "wx", mode: 0o600 }));
    await putInPlace(temporary, place, placement);
  });
  const timestamp = new Date().toISOString();
  return { success: true, path, size: bytes.length, message: "File written", timestamp };
}

/**
 * Accepts both alphabets, with or without padding, and line breaks anywhere. A text that was cut
 * off is invalid.
 */
function isBase64(text: string): boolean {
  const digits = text.replaceAll(/\s+/g, "");
  const data = digits.replace(/={1,2}$/, "");
  const isWhole = data.length % 4 !== 1 && (data === digits || digits.length % 4 === 0);
  return isWhole && /^[\w+/-]*$/.test(data);
}

function bytesOf(content: string, encoding: "utf8" | "base64"): Buffer {
  if (encoding === "base64" && !isBase64(content))
    throw invalidRequest('"content" is not base64, or not all of it');
  const bytes = Buffer.from(content, encoding);
  // Half a surrogate pair becomes U+FFFD, three bytes that the caller did not write.
  if (encoding === "utf8" && bytes.includes("\uFFFD") && /\p{Surrogate}/u.test(content))
    throw invalidRequest('"content" holds half a surrogate pair; "encoding": "base64" takes bytes');
  return bytes;
}

async function makeDirectory(config: GuestAgentConfig, body: Body) {
  const place = await locate(config, stringField(body, "path"));
  const path = place.shown;
  await withFileErrors(path, async () => {
    const facts = await stat(place.bytes).catch(() => undefined);
    if (facts?.isDirectory() === false)
      throw new AgentError(409, "FILE_ALREADY_EXISTS", `${path} exists already`, { path });
    await makeDirectories(place);
    // An existing directory may not be durable yet.
    await sync(parentOf(place).bytes);
  });
  return { success: true, path, message: "Directory created" };
}
