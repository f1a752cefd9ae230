/** GET /files/download: the bytes of a file, streamed at the reader's pace, whole or one range of it (RFC 9110). */
import { basename } from "node:path";
import { AgentError } from "../errors.ts";
import { Reply } from "../http/reply.ts";
import type { Request } from "../http/router.ts";
import { type OpenFile, openRegular } from "./open-file.ts";

interface Range {
  from: number;
  /** Inclusive. */
  to: number;
}

export async function download(path: string, { headers }: Request): Promise<Reply> {
  const file = await openRegular(path);
  try {
    return replyOf(path, file, headers.range, headers["if-range"]);
  } catch (error) {
    await file.handle.close();
    throw error;
  }
}

function replyOf(path: string, { handle, facts }: OpenFile, asked: string | undefined, ifRange: string | string[] | undefined): Reply {
  const etag = `"${facts.size.toString(16)}-${Math.round(facts.mtimeMs * 1000).toString(16)}"`;
  const range = ifRange === undefined || ifRange === etag ? rangeOf(asked, facts.size) : undefined;
  if (range === "unsatisfiable") {
    const message = `"Range" is outside the ${facts.size} bytes of ${path}`;
    throw new AgentError(416, "RANGE_NOT_SATISFIABLE", message, { path, headers: { "content-range": `bytes */${facts.size}` } });
  }
  const { from, to } = range ?? { from: 0, to: facts.size - 1 };
  const headers = {
    "content-type": "application/octet-stream",
    "content-length": to - from + 1,
    "content-disposition": `attachment; filename*=UTF-8''${encodeURIComponent(basename(path)).replace(/['()*]/g, (char) => `%${char.charCodeAt(0).toString(16)}`)}`,
    "accept-ranges": "bytes",
    "last-modified": facts.mtime.toUTCString(),
    etag,
    ...(range === undefined ? {} : { "content-range": `bytes ${from}-${to}/${facts.size}` }),
  };
  const status = range === undefined ? 200 : 206;
  if (facts.size === 0) {
    void handle.close();
    return new Reply(status, headers, Buffer.alloc(0));
  }
  // The stream closes the file, however it ends.
  return new Reply(status, headers, handle.createReadStream({ start: from, end: to, highWaterMark: 256 * 1024 }));
}

/** Undefined: the whole file, also for several ranges and for units that nobody knows. */
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
