/**
 * POST /files/upload: one file in a multipart form, streamed to disk. The file appears under its
 * name when it is complete.
 */
import { createWriteStream } from "node:fs";
import { stat } from "node:fs/promises";
import { basename } from "node:path";
import type { IncomingMessage } from "node:http";
import type { Readable, Writable } from "node:stream";
import { finished, pipeline } from "node:stream/promises";
import { Busboy, type BusboyHeaders } from "@fastify/busboy";
import type { GuestAgentConfig } from "../config.ts";
import { AgentError, invalidRequest, missingParameter } from "../errors.ts";
import type { RoutedRequest } from "../http/router.ts";
import { withFileErrors } from "./file-errors.ts";
import type { NamedPlace } from "./names.ts";
import { locate } from "./paths.ts";
import { modeOf, putInPlace, withTemporary } from "./write-file.ts";

const FORM_LIMITS = {
  files: 1,
  fields: 16,
  fieldSize: 64 * 1024,
  fieldNameSize: 256,
  headerPairs: 64,
  parts: 20,
};

interface Form {
  fields: Map<string, string>;
  file: { name: string; sizeBytes: number } | undefined;
}

export async function upload(config: GuestAgentConfig, request: RoutedRequest) {
  return await withTemporary(config, async (temporary) => {
    const { fields, file } = await readForm(request, temporary);
    if (file === undefined) throw missingParameter("file");
    const asked = fields.get("path") ?? request.query.get("path");
    const place = await targetOf(config, asked, file.name);
    const overwrite = flagOf(fields, "overwrite") ?? true;
    await putInPlace(temporary, place, { mode: modeOf(fields.get("mode")), overwrite });
    const timestamp = new Date().toISOString();
    const told = { path: place.shown, size: file.sizeBytes, message: "File uploaded", timestamp };
    return { success: true, ...told };
  });
}

function flagOf(fields: Map<string, string>, name: string): boolean | undefined {
  const value = fields.get(name)?.toLowerCase();
  if (value === undefined || value === "") return undefined;
  if (value === "true" || value === "1") return true;
  if (value === "false" || value === "0") return false;
  throw invalidRequest(`"${name}" must be true or false`);
}

/** `path` is the name of the file, or the directory for it. */
async function targetOf(
  config: GuestAgentConfig,
  asked: string | null,
  fileName: string,
): Promise<NamedPlace> {
  const place = await locate(config, asked);
  const facts = await stat(place.bytes).catch(() => undefined);
  if (asked?.endsWith("/") !== true && facts?.isDirectory() !== true) return place;
  const name = basename(fileName);
  if (name === "" || name === "." || name === "..")
    throw invalidRequest('"path" is a directory and "file" has no name');
  return await locate(config, `${place.shown}/${name}`);
}

async function readForm(
  { incoming, headers, signal }: RoutedRequest,
  temporary: string,
): Promise<Form> {
  const form: Form = { fields: new Map(), file: undefined };
  const parser = parserOf(headers as BusboyHeaders);
  let saving: { stream: Readable; done: Promise<void> } | undefined;
  parser.on("field", (name, value, _isNameCut, isValueCut) => {
    if (isValueCut) parser.destroy(invalidRequest(`"${name}" is too long`));
    else form.fields.set(name, value);
  });
  const second = () => parser.destroy(invalidRequest('a form holds one file, its "file"'));
  parser.on("filesLimit", second);
  parser.on("file", (field, stream, name) => {
    if (field !== "file") {
      stream.resume();
      return;
    }
    form.file = { name: name ?? "", sizeBytes: 0 };
    saving = { stream, done: save(stream, temporary, form.file, (error) => parser.destroy(error)) };
    saving.done.catch(() => {});
  });
  try {
    await feed(incoming, parser, signal);
    await saving?.done;
  } catch (error) {
    saving?.stream.destroy();
    await saving?.done.catch(() => {});
    throw error instanceof AgentError
      ? error
      : invalidRequest(`the form is malformed or was cut off: ${(error as Error).message}`);
  }
  return form;
}

/** Like `pipeline`, but a failure leaves the connection open, so that the refusal can be sent. */
async function feed(
  incoming: IncomingMessage,
  parser: Writable,
  signal: AbortSignal,
): Promise<void> {
  const left = () => parser.destroy(new Error("the client went away"));
  signal.addEventListener("abort", left, { once: true });
  incoming.once("close", () => incoming.complete || left());
  incoming.pipe(parser);
  try {
    await finished(parser, { readable: false });
  } finally {
    signal.removeEventListener("abort", left);
    incoming.unpipe(parser);
  }
}

function parserOf(headers: BusboyHeaders): InstanceType<typeof Busboy> {
  try {
    return new Busboy({ headers, limits: FORM_LIMITS });
  } catch (error) {
    throw invalidRequest(
      `"Content-Type" must be multipart/form-data with a boundary: ${(error as Error).message}`,
    );
  }
}

async function save(
  stream: Readable,
  temporary: string,
  file: { sizeBytes: number },
  fail: (error: Error) => void,
): Promise<void> {
  const target = createWriteStream(temporary, {
    flags: "wx",
    mode: 0o600,
    highWaterMark: 256 * 1024,
  });
  try {
    await withFileErrors(temporary, () => pipeline(stream, target));
    file.sizeBytes = target.bytesWritten;
  } catch (error) {
    fail(error as Error);
    throw error;
  }
}
