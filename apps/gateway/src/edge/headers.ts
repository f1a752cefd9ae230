/**
 * Headers that pass from one connection to the next, in the form of `rawHeaders`: names and values
 * in turn.
 */
import type { IncomingMessage } from "node:http";
import { DATA_PLANE_HEADERS } from "@torpor/contracts";
import type { Proxies } from "../http/proxies.ts";
import type { Endpoint } from "./endpoint.ts";
import { withoutSessions } from "./preview-session.ts";
import { withoutTokens } from "./protocol-token.ts";

/** Headers about one connection, not about the message (RFC 9110, 7.6.1). */
const HOP_BY_HOP = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);
/** Credentials of the sandbox end at the edge: code in the guest must not see its owner's key. */
const CREDENTIALS = new Set(["authorization", "x-api-key"]);
/** Headers of which a part is the edge's; the rest of the header passes. */
const PARTLY_OURS: Record<string, ((value: string) => string | undefined) | undefined> = {
  cookie: withoutSessions,
  "sec-websocket-protocol": withoutTokens,
};
/** Headers of proxies about a client: only the edge sets them, because applications trust them. */
const isForwarded = (name: string) =>
  name.startsWith("x-forwarded-") || name === "forwarded" || name === "x-real-ip";
/** Headers that only the edge sends to the host. */
const ENDS_HERE = new Set<string>(["expect", "x-request-id", ...Object.values(DATA_PLANE_HEADERS)]);

/** Request headers for the host: those of the client that may pass, and `added`. */
export function upstreamHeaders(
  rawHeaders: string[],
  added: Record<string, string>,
  passesCredentials: boolean,
): string[] {
  const passes = (name: string) =>
    !HOP_BY_HOP.has(name) &&
    !ENDS_HERE.has(name) &&
    !isForwarded(name) &&
    !(name in added) &&
    (passesCredentials || !CREDENTIALS.has(name));
  const passed = filterRaw(rawHeaders, passes, (name, value) =>
    PARTLY_OURS[name] === undefined ? value : PARTLY_OURS[name](value),
  );
  return [...passed, ...Object.entries(added).flat()];
}

/** Response headers for the client. */
export function downstreamHeaders(rawHeaders: string[], added: Record<string, string>): string[] {
  return [
    ...filterRaw(rawHeaders, (name) => !HOP_BY_HOP.has(name) && !(name in added)),
    ...Object.entries(added).flat(),
  ];
}

/**
 * The de facto X-Forwarded-* headers: a web application behind a proxy needs to know its client.
 */
export function forwardedHeaders(
  proxies: Proxies,
  incoming: IncomingMessage,
  endpoint: Pick<Endpoint, "scheme">,
) {
  const chain = proxies.chainOf(incoming);
  return {
    client: { "x-forwarded-for": chain.join(", "), "x-real-ip": chain[0] ?? "" },
    asked: {
      "x-forwarded-host": incoming.headers.host ?? "",
      "x-forwarded-proto": schemeOf(proxies, incoming, endpoint),
    },
  };
}

/** Scheme of the URL that the client requested. */
export function schemeOf(
  proxies: Proxies,
  incoming: IncomingMessage,
  endpoint: Pick<Endpoint, "scheme">,
): "http" | "https" {
  return proxies.schemeOf(incoming) ?? endpoint.scheme;
}

function filterRaw(
  rawHeaders: string[],
  passes: (name: string) => boolean,
  change: (name: string, value: string) => string | undefined = (_, value) => value,
): string[] {
  const passed: string[] = [];
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const [name = "", value = ""] = rawHeaders.slice(at, at + 2);
    const kept = passes(name.toLowerCase()) ? change(name.toLowerCase(), value) : undefined;
    if (kept !== undefined) passed.push(name, kept);
  }
  return passed;
}
