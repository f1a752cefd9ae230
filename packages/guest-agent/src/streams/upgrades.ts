/**
 * Protocol upgrades: WebSockets and the host's tunnels. Refusals are HTTP responses with the usual
 * bodies.
 */
import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import type { GuestActivity, OpenStream } from "../activity.ts";
import { AgentError, asAgentError, errorBody, invalidRequest } from "../errors.ts";
import { authorize, type KeyHolder } from "../http/access.ts";
import type { Connections } from "../http/connections.ts";
import { parseUrl, type Route } from "../http/router.ts";
import { requestIdOf } from "../http/server.ts";
import type { Gate } from "../execution/gate.ts";

export interface StreamRequest {
  query: URLSearchParams;
  stream: OpenStream;
  /** Aborted when the client leaves, not when a pause cuts it off. */
  signal: AbortSignal;
}

export interface WebSocketRoute {
  path: string;
  /** Resolves at the end of the stream. */
  handle(socket: WebSocket, request: StreamRequest): Promise<void>;
}

export interface RawRoute {
  path: string;
  access: Route["access"];
  protocol: string;
  /** Takes over the connection, or throws an AgentError before anything is written. */
  handle(socket: Duplex, head: Buffer, request: StreamRequest): Promise<void>;
}

export interface UpgradeDeps {
  keys: KeyHolder;
  connections: Connections;
  activity: GuestActivity;
  gate: Gate;
  webSockets: readonly WebSocketRoute[];
  raw: readonly RawRoute[];
}

const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

export function acceptUpgrades(server: Server, deps: UpgradeDeps): void {
  const acceptor = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_MESSAGE_BYTES,
    perMessageDeflate: false,
  });
  server.on("upgrade", (incoming: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on("error", () => socket.destroy());
    upgrade(acceptor, deps, incoming, socket, head).catch((error: unknown) =>
      refuse(incoming, socket, asAgentError(error)),
    );
  });
}

async function upgrade(
  acceptor: WebSocketServer,
  deps: UpgradeDeps,
  incoming: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  const url = parseUrl(incoming);
  const protocol = incoming.headers.upgrade?.toLowerCase();
  const raw = deps.raw.find((route) => route.path === url.pathname);
  const webSocket = deps.webSockets.find((route) => route.path === url.pathname);
  if (raw === undefined && webSocket === undefined)
    throw new AgentError(
      404,
      "ENDPOINT_NOT_FOUND",
      `there is no stream ${url.pathname} in this agent`,
    );
  authorize(raw?.access, deps.keys, incoming);
  const expected = raw?.protocol ?? "websocket";
  if (protocol !== expected) throw invalidRequest(`"Upgrade" must be ${expected}`);
  const leave = deps.gate.enter();
  const stream = deps.activity.stream();
  const request = { query: url.searchParams, stream, signal: leaving(deps.connections, socket) };
  try {
    if (raw !== undefined) await raw.handle(socket, head, request);
    else if (webSocket !== undefined)
      await serveWebSocket(acceptor, webSocket, { incoming, socket, head }, request);
  } finally {
    stream.end();
    leave();
  }
}

async function serveWebSocket(
  acceptor: WebSocketServer,
  route: WebSocketRoute,
  { incoming, socket, head }: { incoming: IncomingMessage; socket: Duplex; head: Buffer },
  request: StreamRequest,
): Promise<void> {
  const accepted = new Promise<WebSocket | undefined>((resolve) => {
    // The acceptor itself responds to a malformed handshake.
    socket.once("close", () => resolve(undefined));
    acceptor.handleUpgrade(incoming, socket, head, resolve);
  });
  const webSocket = await accepted;
  if (webSocket === undefined) return;
  webSocket.on("error", () => webSocket.terminate());
  webSocket.on("message", () => request.stream.touch());
  try {
    await route.handle(webSocket, request);
  } finally {
    webSocket.terminate();
  }
}

function leaving(connections: Connections, socket: Duplex): AbortSignal {
  const left = new AbortController();
  socket.once("close", () => {
    if (connections.hasLeft(socket)) left.abort();
  });
  return left.signal;
}

function refuse(incoming: IncomingMessage, socket: Duplex, error: AgentError): void {
  const requestId = requestIdOf(incoming);
  const text = JSON.stringify(errorBody(error, requestId));
  socket.end(
    `HTTP/1.1 ${error.status} Refused\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\nx-request-id: ${requestId}\r\nconnection: close\r\n\r\n${text}`,
  );
}
