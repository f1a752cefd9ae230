/**
 * A sandbox's token as a sub-protocol of a WebSocket: `torpor.token.<token>`. In a browser, a page
 * can add nothing else to the request that opens a WebSocket.
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

/** The sub-protocols that the application is offered; undefined: none. */
export function withoutTokens(header: string): string | undefined {
  const kept = protocolsIn(header).filter((protocol) => !protocol.startsWith(PREFIX));
  return kept.length === 0 ? undefined : kept.join(", ");
}

/**
 * Headers to add to a response. A browser closes a WebSocket when none of the sub-protocols that it
 * offered is selected, and an application that was offered none selects none.
 */
export function takenProtocol(
  headers: IncomingHttpHeaders,
  answered: IncomingHttpHeaders,
): Record<string, string> {
  const own = findProtocol(headers);
  if (own === undefined || answered["sec-websocket-protocol"] !== undefined) return {};
  return { "sec-websocket-protocol": own };
}
