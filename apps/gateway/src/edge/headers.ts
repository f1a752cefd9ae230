/** What passes from one connection to the next, in the form of `rawHeaders`: names and values in turn. */
import { DATA_PLANE_HEADERS } from "@torpor/contracts";

/** They speak of one connection, not of the message (RFC 9110, 7.6.1). */
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
/** Credentials end at the edge: code in the guest must not see its owner's key. Nobody but the edge speaks to the host. */
const ENDS_HERE = new Set<string>(["authorization", "x-api-key", "expect", "x-request-id", ...Object.values(DATA_PLANE_HEADERS)]);

/** Request headers for the host: those of the client that may pass, and `added`. */
export function upstreamHeaders(rawHeaders: string[], added: Record<string, string>): string[] {
  const passed = filterRaw(rawHeaders, (name) => !HOP_BY_HOP.has(name) && !ENDS_HERE.has(name));
  return [...passed, ...Object.entries(added).flat()];
}

/** Response headers for the client. */
export function downstreamHeaders(rawHeaders: string[], requestId: string): string[] {
  return [...filterRaw(rawHeaders, (name) => !HOP_BY_HOP.has(name) && name !== "x-request-id"), "x-request-id", requestId];
}

function filterRaw(rawHeaders: string[], passes: (name: string) => boolean): string[] {
  const passed: string[] = [];
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const [name = "", value = ""] = rawHeaders.slice(at, at + 2);
    if (passes(name.toLowerCase())) passed.push(name, value);
  }
  return passed;
}
