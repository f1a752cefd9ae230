/** An HTTP server of the edge, with or without TLS, and the connections that it holds. */
import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions,
  type ServerResponse,
} from "node:http";
import { createServer as createSecureServer, type Server as SecureServer } from "node:https";
import type { Socket } from "node:net";
import type { SecureContextOptions } from "node:tls";
import type { Duplex } from "node:stream";
import { MAX_HEADER_BYTES } from "@torpor/contracts";
import type { ConnectionLimits } from "../http/connection-limits.ts";
import { inLane } from "../database-turns.ts";
import { refuseMalformedHttp } from "../http/malformed-http.ts";
import { ownerOfAddress, type Proxies } from "../http/proxies.ts";
import { refusalBody } from "./refusal.ts";

const HEADERS_LIMIT_MS = 15_000;
const KEEP_ALIVE_MS = 65_000;
const KEEP_ALIVE_PROBE_MS = 30_000;

export interface EdgeServer {
  server: Server | SecureServer;
  /** Serves a connection that another listener has accepted. */
  take: (socket: Socket) => void;
  /**
   * Accepts no more connections, and resolves when the existing ones have ended: each closes with
   * the response that it waits for.
   */
  drain(): Promise<void>;
  /**
   * Ends the server and all its connections. The HTTP server itself would leave upgraded ones open.
   */
  shut(): void;
}

export interface EdgeHandlers {
  request(incoming: IncomingMessage, response: ServerResponse): Promise<void>;
  upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): Promise<void>;
}

interface EdgeServerOptions {
  proxies: Proxies;
  connections: Pick<ConnectionLimits, "watch">;
  /** Open connections, at most. More are closed as they come, before anything is read from them. */
  maxConnections: number;
  /** The same, for one address and port of this machine. */
  maxPerAddress?: number | undefined;
  /**
   * Returns true if connections to that address of this machine are served; without it, all are.
   */
  serves?: ((localAddress: string) => boolean) | undefined;
}

/** Creates a server that does not listen yet. */
export function createEdgeServer(
  handlers: EdgeHandlers,
  given: EdgeServerOptions,
  tls?: SecureContextOptions,
): EdgeServer {
  const { connections, proxies } = given;
  const options: ServerOptions = {
    shouldUpgradeCallback: (incoming: IncomingMessage) =>
      incoming.headers.upgrade?.toLowerCase() === "websocket",
    headersTimeout: HEADERS_LIMIT_MS,
    // Uploads take as long as they take.
    requestTimeout: 0,
    keepAliveTimeout: KEEP_ALIVE_MS,
    maxHeaderSize: MAX_HEADER_BYTES,
  };
  const laneOf = (incoming: IncomingMessage) =>
    `address ${ownerOfAddress(proxies.clientOf(incoming))}`;
  let isDraining = false;
  const answering = new Set<ServerResponse>();
  const onRequest = (incoming: IncomingMessage, response: ServerResponse) => {
    answering.add(response);
    response.shouldKeepAlive &&= !isDraining;
    response.once("close", () => {
      answering.delete(response);
      if (isDraining) setImmediate(() => server.closeIdleConnections());
    });
    void inLane(laneOf(incoming), () => handlers.request(incoming, response));
  };
  const server =
    tls === undefined
      ? createServer(options, onRequest)
      : createSecureServer({ ...options, ...tls }, onRequest);
  server.on("upgrade", (incoming: IncomingMessage, socket: Duplex, head: Buffer) => {
    // After an upgrade, no other code handles errors of the socket.
    socket.on("error", () => socket.destroy());
    void inLane(laneOf(incoming), () => handlers.upgrade(incoming, socket, head));
  });
  server.on("clientError", (cause: Error, socket: Duplex) =>
    refuseMalformedHttp(cause, socket as Socket, refusalBody),
  );
  const sockets = keepCount(server, given);
  connections.watch(server);
  return {
    server,
    take: (socket) => void server.emit("connection", socket),
    drain: async () => {
      isDraining = true;
      // Sends `Connection: close` where the response has not begun.
      for (const response of answering) response.shouldKeepAlive = false;
      const ended = [...sockets].map((socket) => once(socket, "close"));
      await Promise.all([new Promise((resolve) => server.close(resolve)), ...ended]);
    },
    shut() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/**
 * Tracks the open connections. A connection over a limit, or to an address that is not served, is
 * closed before the server's other listeners see it.
 */
function keepCount(
  server: Server | SecureServer,
  { maxConnections, maxPerAddress = maxConnections, serves }: EdgeServerOptions,
): ReadonlySet<Socket> {
  const sockets = new Set<Socket>();
  const perAddress = new Map<string, number>();
  server.prependListener("connection", (socket: Socket) => {
    const { localAddress = "", localPort } = socket;
    const address = `${localAddress}:${localPort}`;
    const there = perAddress.get(address) ?? 0;
    const isServed = serves?.(localAddress) ?? true;
    if (!isServed || sockets.size >= maxConnections || there >= maxPerAddress)
      return void socket.destroy();
    sockets.add(socket);
    perAddress.set(address, there + 1);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_PROBE_MS);
    socket.once("close", () => {
      sockets.delete(socket);
      const left = (perAddress.get(address) ?? 1) - 1;
      if (left > 0) perAddress.set(address, left);
      else perAddress.delete(address);
    });
  });
  return sockets;
}
