import type { IncomingMessage, ServerResponse } from "node:http";
import { finished } from "node:stream/promises";

const DISCARD_LIMIT_MS = 60_000;

/**
 * Ends a response that may be sent before its request was read: a refusal, a full disk. The rest of
 * the request is read and discarded, for a limited time; otherwise the next request on the
 * connection would wait forever. A connection that is closed with unread bytes is reset, and a
 * client that reads only after it has sent everything may then lose the response. So a connection
 * that is to close stays open until the request is read.
 */
export function endAnswer(
  incoming: IncomingMessage,
  response: ServerResponse,
  body?: Buffer,
): void {
  if (isOver(incoming)) return void response.end(body);
  discardRest(incoming);
  if (response.shouldKeepAlive) return void response.end(body);
  if (body !== undefined) response.write(body);
  incoming.once("end", () => response.end());
}

/** Resolves when the request or its connection has ended. */
export async function discardRequest(incoming: IncomingMessage): Promise<void> {
  if (isOver(incoming)) return;
  discardRest(incoming);
  await finished(incoming).catch(() => {});
}

const isOver = (incoming: IncomingMessage) =>
  incoming.complete || incoming.readableEnded || incoming.destroyed;

function discardRest(incoming: IncomingMessage): void {
  incoming.unpipe();
  incoming.resume();
  const limit = setTimeout(() => incoming.destroy(), DISCARD_LIMIT_MS);
  for (const event of ["end", "close"]) incoming.once(event, () => clearTimeout(limit));
}
