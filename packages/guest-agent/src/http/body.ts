/**
 * Reads one JSON body, within its own limit and a shared limit for all bodies that are being read.
 */
import type { IncomingMessage } from "node:http";
import type { Budget } from "../budget.ts";
import { AgentError, tooMany } from "../errors.ts";
import { type Body, parseObject } from "../fields.ts";

export interface BodyLimits {
  maxBytes: number;
  /** Shared by all requests. */
  budget: Budget;
}

/** Calls `use` with the body, then returns its bytes to the shared budget. */
export async function withBody<T>(
  incoming: IncomingMessage,
  limits: BodyLimits,
  use: (body: Body) => Promise<T>,
): Promise<T> {
  const taken = { bytes: 0 };
  try {
    return await use(await read(incoming, limits, taken));
  } finally {
    limits.budget.give(taken.bytes);
  }
}

async function read(
  incoming: IncomingMessage,
  { maxBytes, budget }: BodyLimits,
  taken: { bytes: number },
): Promise<Body> {
  const tooLarge = () =>
    new AgentError(
      413,
      "INVALID_REQUEST",
      `the body is larger than ${maxBytes} bytes; POST /files/upload takes files of any size`,
    );
  if (Number(incoming.headers["content-length"] ?? 0) > maxBytes) throw tooLarge();
  const chunks: Buffer[] = [];
  // A refusal must not end the connection, on which it is sent.
  for await (const chunk of incoming.iterator({
    destroyOnReturn: false,
  }) as AsyncIterable<Buffer>) {
    if (taken.bytes + chunk.length > maxBytes) throw tooLarge();
    if (!budget.take(chunk.length))
      throw tooMany("too many large requests at the same time; send this one again in a moment");
    taken.bytes += chunk.length;
    chunks.push(chunk);
  }
  return taken.bytes === 0 ? {} : parseObject(utf8(Buffer.concat(chunks)));
}

/** Throws: invalid bytes would otherwise be replaced silently. */
function utf8(bytes: Buffer): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new AgentError(400, "INVALID_JSON", "the body is not UTF-8", { cause });
  }
}
