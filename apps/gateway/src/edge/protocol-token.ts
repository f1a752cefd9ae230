/**
 * A sandbox's token as a sub-protocol of a WebSocket: `torpor.token.<token>`. Browsers let a page
 * say nothing else about itself when it opens one.
 */
import type { IncomingHttpHeaders } from "node:http";

const PREFIX = "torpor.token.";

const protocolsIn = (header: string) =>
  header
    .split(",")
    .map((protocol) => protocol.trim())
    .filter((protocol) => protocol !== "");

function findProtocol(headers: IncomingHttpHeaders): string | undefined {
  if (headers.upgrade === undefined) return undefined;
  const offered = protocolsIn(headers["sec-websocket-protocol"] ?? "");
  return offered.find((protocol) => protocol.startsWith(PREFIX));
}

export function protocolTokenIn(headers: IncomingHttpHeaders): string | undefined {
  return findProtocol(headers)?.slice(PREFIX.length);
}

/** What the application is offered; undefined: nothing. */
export function withoutTokens(header: string): string | undefined {
  const kept = protocolsIn(header).filter((protocol) => !protocol.startsWith(PREFIX));
  return kept.length === 0 ? undefined : kept.join(", ");
}

/**
 * Headers to add to an answer. A browser gives a WebSocket up when nothing of what it offered is
 * taken, and an application that was offered nothing takes nothing.
 */
export function takenProtocol(
  headers: IncomingHttpHeaders,
  answered: IncomingHttpHeaders,
): Record<string, string> {
  const own = findProtocol(headers);
  if (own === undefined || answered["sec-websocket-protocol"] !== undefined) return {};
  return { "sec-websocket-protocol": own };
}
