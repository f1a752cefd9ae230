import type { IncomingMessage, ServerResponse } from "node:http";
import { finished } from "node:stream/promises";

const DISCARD_LIMIT_MS = 60_000;

/**
 * Ends an answer that may have come before its request was read: a refusal, a full disk. What
 * nobody wants of the request is read and thrown away, for a limited time. Without that the next
 * request on the connection waits behind it for ever; and a connection that is closed with bytes
 * unread is reset, which can take the answer from a client that reads only after it has sent
 * everything, so one that is to close stays open until then.
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

/** Resolves when the request has come to its end, or its connection has. */
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
