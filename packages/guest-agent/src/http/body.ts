/** Reads one JSON body, within a limit of its own and one for all that are read together. */
import type { IncomingMessage } from "node:http";
import type { Budget } from "../budget.ts";
import { AgentError, tooMany } from "../errors.ts";
import { type Body, parseObject } from "../fields.ts";

export interface BodyLimits {
  maxBytes: number;
  /** Shared by all requests. */
  budget: Budget;
}

/** Calls `use` with the body; what the body takes of the shared budget is given back after it. */
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
  // Giving up must not end the connection, which the refusal goes back on.
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

/** Bytes that are no text would be replaced without a word. */
function utf8(bytes: Buffer): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new AgentError(400, "INVALID_JSON", "the body is not UTF-8", { cause });
  }
}
