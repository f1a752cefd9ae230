/**
 * GET /files/download: the bytes of a file, streamed at the reader's pace, whole or one range of it
 * (RFC 9110).
 */
import type { Stats } from "node:fs";
import type { IncomingHttpHeaders } from "node:http";
import { basename } from "node:path";
import { AgentError } from "../errors.ts";
import { Reply } from "../http/reply.ts";
import type { RoutedRequest } from "../http/router.ts";
import { withFileErrors } from "./file-errors.ts";
import type { NamedPlace } from "./names.ts";
import { type OpenFile, openRegular } from "./open-file.ts";

const CHUNK_BYTES = 256 * 1024;

interface Range {
  from: number;
  /** Inclusive. */
  to: number;
}

export async function download(place: NamedPlace, { headers }: RoutedRequest): Promise<Reply> {
  const file = await openRegular(place);
  try {
    const first = await withFileErrors(place.shown, () => beginningOf(file));
    if (first !== undefined) return unsizedReply(place, file, first);
    return sizedReply(place, file, rangeIn(place, file, headers));
  } catch (error) {
    await file.handle.close();
    throw error;
  }
}

/** The first chunk of a file that claims to be empty and is not, as in /proc. */
async function beginningOf({ handle, facts }: OpenFile): Promise<Buffer | undefined> {
  if (facts.size > 0) return undefined;
  const { bytesRead, buffer } = await handle.read(Buffer.allocUnsafe(CHUNK_BYTES));
  return bytesRead === 0 ? undefined : buffer.subarray(0, bytesRead);
}

function unsizedReply(place: NamedPlace, { handle }: OpenFile, first: Buffer): Reply {
  const stream = handle.createReadStream({ highWaterMark: CHUNK_BYTES });
  stream.unshift(first);
  return new Reply(200, headersOf(place), stream);
}

function sizedReply(
  place: NamedPlace,
  { handle, facts }: OpenFile,
  range: Range | undefined,
): Reply {
  const { from, to } = range ?? { from: 0, to: facts.size - 1 };
  const headers = {
    ...headersOf(place),
    "content-length": to - from + 1,
    "accept-ranges": "bytes",
    "last-modified": facts.mtime.toUTCString(),
    etag: etagOf(facts),
    ...(range === undefined ? {} : { "content-range": `bytes ${from}-${to}/${facts.size}` }),
  };
  const status = range === undefined ? 200 : 206;
  if (facts.size === 0) {
    void handle.close();
    return new Reply(status, headers, Buffer.alloc(0));
  }
  // The stream closes the file on every end.
  const options = { start: from, end: to, highWaterMark: CHUNK_BYTES };
  return new Reply(status, headers, handle.createReadStream(options));
}

function headersOf({ shown }: NamedPlace): Record<string, string> {
  const name = encodeURIComponent(basename(shown)).replace(
    /['()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16)}`,
  );
  return {
    "content-type": "application/octet-stream",
    "content-disposition": `attachment; filename*=UTF-8''${name}`,
  };
}

const etagOf = ({ size, mtimeMs }: Stats): string =>
  `"${size.toString(16)}-${Math.round(mtimeMs * 1000).toString(16)}"`;

/** The requested part; undefined for the whole file. Throws 416. */
function rangeIn(
  { shown: path }: NamedPlace,
  { facts }: OpenFile,
  { range: asked, "if-range": ifRange }: IncomingHttpHeaders,
): Range | undefined {
  const isMeant = ifRange === undefined || ifRange === etagOf(facts);
  const range = isMeant ? rangeOf(asked, facts.size) : undefined;
  if (range !== "unsatisfiable") return range;
  throw new AgentError(
    416,
    "RANGE_NOT_SATISFIABLE",
    `"Range" is outside the ${facts.size} bytes of ${path}`,
    { path, headers: { "content-range": `bytes */${facts.size}` } },
  );
}

/** Undefined means the whole file, also for several ranges and for unknown units. */
function rangeOf(asked: string | undefined, size: number): Range | "unsatisfiable" | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(asked?.trim() ?? "");
  if (match === null) return undefined;
  const [, first = "", last = ""] = match;
  if (first === "" && last === "") return undefined;
  const range =
    first === ""
      ? { from: Math.max(0, size - Number(last)), to: size - 1 }
      : { from: Number(first), to: last === "" ? size - 1 : Math.min(Number(last), size - 1) };
  if (first !== "" && last !== "" && Number(last) < Number(first)) return undefined;
  return range.from >= size || (first === "" && Number(last) === 0) ? "unsatisfiable" : range;
}
