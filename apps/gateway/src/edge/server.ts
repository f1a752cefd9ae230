/** An HTTP server of the edge, with or without TLS, and the connections that it holds. */
import { createServer, type IncomingMessage, type Server, type ServerOptions, type ServerResponse } from "node:http";
import { createServer as createSecureServer, type Server as SecureServer } from "node:https";
import type { Socket } from "node:net";
import type { SecureContextOptions } from "node:tls";
import type { Duplex } from "node:stream";
import { MAX_HEADER_BYTES } from "@torpor/contracts";
import type { ConnectionLimits } from "../connection-limits.ts";
import { inLane } from "../database-turns.ts";
import { refuseMalformedHttp } from "../malformed-http.ts";
import { ownerOfAddress, type Proxies } from "../proxies.ts";
import { refusalBody } from "./refusal.ts";

const HEADERS_LIMIT_MS = 15_000;
const KEEP_ALIVE_MS = 65_000;

export interface EdgeServer {
  server: Server | SecureServer;
  /** Takes no connection any more, and resolves when those that there are have ended: each closes with the answer that it waits for. */
  drain(): Promise<void>;
  /** Ends the server with all its connections: upgraded ones are no longer its own, and it would leave them open. */
  shut(): void;
}

export interface EdgeHandlers {
  request(incoming: IncomingMessage, response: ServerResponse): Promise<void>;
  upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): Promise<void>;
}

interface EdgeServerOptions {
  proxies: Proxies;
  /** More are refused by the kernel. */
  maxConnections: number;
  connections: Pick<ConnectionLimits, "watch">;
}

/** Not listening yet. */
export function createEdgeServer(
  handlers: EdgeHandlers,
  { maxConnections, connections, proxies }: EdgeServerOptions,
  tls?: SecureContextOptions,
): EdgeServer {
  const options: ServerOptions = {
    shouldUpgradeCallback: (incoming: IncomingMessage) => incoming.headers.upgrade?.toLowerCase() === "websocket",
    headersTimeout: HEADERS_LIMIT_MS,
    // Uploads take as long as they take.
    requestTimeout: 0,
    keepAliveTimeout: KEEP_ALIVE_MS,
    maxHeaderSize: MAX_HEADER_BYTES,
  };
  const laneOf = (incoming: IncomingMessage) => `address ${ownerOfAddress(proxies.clientOf(incoming))}`;
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
  const server = tls === undefined ? createServer(options, onRequest) : createSecureServer({ ...options, ...tls }, onRequest);
  server.on("upgrade", (incoming: IncomingMessage, socket: Duplex, head: Buffer) => {
    // From here on nobody else listens for its errors.
    socket.on("error", () => socket.destroy());
    void inLane(laneOf(incoming), () => handlers.upgrade(incoming, socket, head));
  });
  server.on("clientError", (cause: Error, socket: Duplex) => refuseMalformedHttp(cause, socket as Socket, refusalBody));
  server.maxConnections = maxConnections;
  connections.watch(server);
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 30_000);
    socket.once("close", () => sockets.delete(socket));
  });
  return {
    server,
    drain: async () => {
      isDraining = true;
      // `Connection: close`, where the answer has not begun.
      for (const response of answering) response.shouldKeepAlive = false;
      await new Promise((resolve) => server.close(resolve));
    },
    shut() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}
