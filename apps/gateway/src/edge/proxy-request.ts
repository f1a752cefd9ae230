/**
 * A proxy request to a host's data plane: sent, streamed both ways, with its failures distinguished
 * by whether they can have had an effect.
 */
import type { ClientRequest, IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { TLSSocket } from "node:tls";
import { ADDED_HEADER_BYTES, MAX_HEADER_BYTES } from "@torpor/contracts";
import { upstreamHeaders } from "./headers.ts";
import type { AgentTarget } from "./target.ts";

const CONNECT_LIMIT_MS = 5_000;
/** Time without a byte in either direction: executions may be silent for long, but not for ever. */
const SILENCE_LIMIT_MS = 3_600_000;

export type ProxyResult =
  | { kind: "answered"; answer: IncomingMessage }
  | { kind: "upgraded"; answer: IncomingMessage; socket: Duplex; head: Buffer }
  /** No connection was made: the request had no effect. */
  | { kind: "unreachable"; cause: Error }
  /** The connection broke before a response: the request may have had an effect. */
  | { kind: "lost"; cause: Error };

export interface Sending {
  /** Headers for the guest. */
  extra: Record<string, string>;
  passesCredentials: boolean;
  /** Aborted when the client leaves. */
  signal: AbortSignal;
}

/**
 * Sends `incoming` on. The body is streamed. A request that may have an effect uses a new
 * connection: if that is refused, for example by a host that restarts, it is known to have carried
 * nothing. A read may reuse a connection, and is sent again over a new one if that breaks.
 */
export async function proxyRequest(
  incoming: IncomingMessage,
  target: AgentTarget,
  sending: Sending,
): Promise<ProxyResult> {
  const isRead = isRepeatable(incoming);
  const first = sendOn(incoming, target, sending, !isRead);
  const proxied = await first.proxied;
  if (proxied.kind !== "lost" || !first.isReused() || !isRead || sending.signal.aborted)
    return proxied;
  return await sendOn(incoming, target, sending, true).proxied;
}

interface Sent {
  proxied: Promise<ProxyResult>;
  /** True if the request went over a reused connection. */
  isReused: () => boolean;
}

function sendOn(
  incoming: IncomingMessage,
  target: AgentTarget,
  sending: Sending,
  isFresh: boolean,
): Sent {
  const { extra, passesCredentials, signal } = sending;
  const headers = upstreamHeaders(
    incoming.rawHeaders,
    { ...framing(incoming), ...extra, ...target.headers },
    passesCredentials,
  );
  const upstream = target.request({
    isFresh,
    ...(incoming.method === undefined ? {} : { method: incoming.method }),
    ...(incoming.url === undefined ? {} : { path: incoming.url }),
    headers,
    signal,
    maxHeaderSize: MAX_HEADER_BYTES + ADDED_HEADER_BYTES,
  });
  const proxied = outcomeOf(upstream);
  if (hasBody(incoming)) incoming.pipe(upstream);
  else upstream.end();
  return { proxied, isReused: () => upstream.reusedSocket };
}

function isRepeatable(incoming: IncomingMessage): boolean {
  return (
    (incoming.method === "GET" || incoming.method === "HEAD") &&
    incoming.headers.upgrade === undefined &&
    !hasBody(incoming)
  );
}

function outcomeOf(upstream: ClientRequest): Promise<ProxyResult> {
  let connected = false;
  const limit = setTimeout(
    () => upstream.destroy(new Error(`no connection within ${CONNECT_LIMIT_MS} ms`)),
    CONNECT_LIMIT_MS,
  );
  upstream.once("socket", (socket) => {
    const isThere = () => {
      connected = true;
      clearTimeout(limit);
      // Not sooner: until it is connected, the time limit of kept connections applies.
      upstream.setTimeout(SILENCE_LIMIT_MS, () =>
        upstream.destroy(new Error(`the sandbox was silent for ${SILENCE_LIMIT_MS} ms`)),
      );
    };
    if (upstream.reusedSocket) return isThere();
    // Nothing is sent before the host has proven its identity.
    socket.once(socket instanceof TLSSocket ? "secureConnect" : "connect", () => {
      isThere();
      socket.setNoDelay(true);
      socket.setKeepAlive(true, 30_000);
    });
  });
  return new Promise((resolve) => {
    upstream.once("response", (answer) => resolve({ kind: "answered", answer }));
    upstream.once("upgrade", (answer, socket, head) =>
      resolve({ kind: "upgraded", answer, socket, head }),
    );
    // Stays: an error after the response began is emitted here, too.
    upstream.on("error", (cause) => {
      clearTimeout(limit);
      resolve({ kind: connected ? "lost" : "unreachable", cause });
    });
  });
}

export function hasBody(incoming: IncomingMessage): boolean {
  const length = incoming.headers["content-length"];
  return (
    incoming.headers["transfer-encoding"] !== undefined || (length !== undefined && length !== "0")
  );
}

/** Headers that delimit the body on the next connection: as on the one before, or as empty. */
function framing(incoming: IncomingMessage): Record<string, string> {
  if (incoming.headers["transfer-encoding"] !== undefined)
    return { "transfer-encoding": "chunked" };
  const isBare =
    incoming.headers["content-length"] === undefined &&
    incoming.method !== "GET" &&
    incoming.method !== "HEAD";
  return isBare ? { "content-length": "0" } : {};
}
