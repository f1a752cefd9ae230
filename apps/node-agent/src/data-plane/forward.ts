/**
 * Forwards one proxy request from the data plane into the guest. Each request has its own
 * connection, because no connection survives a restore.
 */
import {
  type IncomingHttpHeaders,
  type IncomingMessage,
  request as httpRequest,
  type ServerResponse,
} from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import {
  DATA_PLANE_HEADERS,
  GUEST_AGENT_KEY_HEADER,
  GUEST_AGENT_PORT,
  MAX_HEADER_BYTES,
} from "@torpor/contracts";
import type { ProxiedRequest } from "./activity.ts";
import { endAnswer } from "@torpor/service/end-answer";
import { agentUnreachable, connectAgent, type GuestRoute, openTunnel } from "./guest-tunnel.ts";
import { type Refusal, refuse, refuseUpgrade } from "./refusal.ts";

export interface GuestEndpoint {
  route: GuestRoute;
  /** Port in the guest. */
  port: number;
}

const INTERNAL_HEADERS = new Set<string>(Object.values(DATA_PLANE_HEADERS));
/**
 * Headers that are not forwarded to the agent, which is opened by its own key. On other ports they
 * are the application's, and the edge decides which ones pass.
 */
const CREDENTIALS = new Set(["authorization", "x-api-key"]);

/** Forwards a request. Resolves when it is under way; never rejects. */
export async function forward(
  incoming: IncomingMessage,
  response: ServerResponse,
  endpoint: GuestEndpoint,
  exchange: ProxiedRequest,
): Promise<void> {
  response.once("close", exchange.end);
  const way = await connectionTo(endpoint);
  if ("code" in way) return refuse(incoming, response, way);
  const upstream = httpRequest({
    createConnection: () => way,
    method: incoming.method,
    path: incoming.url,
    headers: guestHeaders(incoming.headers, endpoint),
    maxHeaderSize: MAX_HEADER_BYTES,
  });
  upstream.once("response", (answer) => {
    exchange.answered();
    response.writeHead(answer.statusCode ?? 502, ofMessage(answer.headers));
    answer.on("data", exchange.touch);
    answer.once("error", () => response.destroy());
    answer.pipe(response, { end: false });
    answer.once("end", () => endAnswer(incoming, response));
  });
  upstream.on("error", (error) => {
    // Once the response has begun, an incomplete response shows the error.
    if (!response.headersSent) refuse(incoming, response, unreachable(endpoint, error));
  });
  response.once("close", () => upstream.destroy());
  if (response.destroyed) return void upstream.destroy();
  incoming.on("data", exchange.touch);
  incoming.pipe(upstream);
}

/** Drops the headers about the connection to the guest: the connection to the edge outlives it. */
function ofMessage({
  connection: _connection,
  "keep-alive": _keepAlive,
  ...headers
}: IncomingHttpHeaders): IncomingHttpHeaders {
  return headers;
}

/**
 * Forwards an upgrade. After the head of the request, bytes go both ways: the guest's response is
 * passed on as it comes, whatever it is.
 */
export async function forwardUpgrade(
  incoming: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  endpoint: GuestEndpoint,
  exchange: ProxiedRequest,
): Promise<void> {
  socket.once("close", exchange.end);
  const opened = await connectionTo(endpoint);
  if ("code" in opened) return refuseUpgrade(incoming, socket, opened);
  const upstream = opened;
  if (socket.destroyed) return void upstream.destroy();
  upstream.on("error", () => socket.destroy());
  upstream.once("close", () => socket.destroy());
  socket.once("close", () => upstream.destroy());
  const headers = Object.entries({
    ...guestHeaders(incoming.headers, endpoint),
    connection: "Upgrade",
    upgrade: incoming.headers.upgrade ?? "websocket",
  });
  const lines = headers.map(([name, value]) => `${name}: ${String(value)}\r\n`);
  upstream.write(`${incoming.method} ${incoming.url} HTTP/1.1\r\n${lines.join("")}\r\n`);
  if (head.length > 0) upstream.write(head);
  upstream.once("data", exchange.answered);
  upstream.on("data", exchange.touch);
  socket.on("data", exchange.touch);
  upstream.pipe(socket).pipe(upstream);
}

/** Connects to the agent directly, to another port through a tunnel. */
async function connectionTo({ route, port }: GuestEndpoint): Promise<Socket | Refusal> {
  return port === GUEST_AGENT_PORT ? await connectAgent(route) : await openTunnel(route, port);
}

function unreachable({ port }: GuestEndpoint, error: Error & { code?: string }): Refusal {
  if (error.code === "HPE_HEADER_OVERFLOW")
    return {
      code: "ANSWER_HEADERS_TOO_LARGE",
      message: `The headers of the answer of port ${port} are larger than ${MAX_HEADER_BYTES / 1024} KiB together, and are not passed on. What was asked for was carried out.`,
    };
  if (port === GUEST_AGENT_PORT) return agentUnreachable(error);
  return {
    code: "CONNECTION_LOST",
    message: `Port ${port} of the sandbox broke the connection: ${error.message}`,
  };
}

function guestHeaders(
  headers: IncomingHttpHeaders,
  { route, port }: GuestEndpoint,
): IncomingHttpHeaders {
  const kept = Object.entries(headers).filter(([name]) => !INTERNAL_HEADERS.has(name));
  if (port !== GUEST_AGENT_PORT) return Object.fromEntries(kept);
  const others = kept.filter(([name]) => !CREDENTIALS.has(name));
  return {
    ...Object.fromEntries(others),
    host: `localhost:${port}`,
    [GUEST_AGENT_KEY_HEADER]: route.agentKey,
  };
}
