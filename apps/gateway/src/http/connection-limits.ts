/**
 * Limits the connections without a credential of each address, so that no client takes the
 * connections of a gateway, or of a sandbox, from others by opening idle ones.
 *
 * CL1  A connection counts until a request on it has shown a good credential.
 * CL2  Over the limit, the connection that has been without a request for longest is closed; if all
 *      have a request under way, the new one is closed.
 * CL3  Connections of a trusted proxy carry many clients, and do not count.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { FastifyBaseLogger } from "fastify";
import { ownerOfAddress, type Proxies } from "./proxies.ts";

const REPORT_EVERY_MS = 60_000;

interface Connection {
  socket: Socket;
  owner: string;
  requests: number;
}

export interface ConnectionLimitsOptions {
  /** 0: no limit. */
  perAddress: number;
  proxies: Pick<Proxies, "trusts">;
  log: FastifyBaseLogger;
}

export class ConnectionLimits {
  private readonly options: ConnectionLimitsOptions;
  private readonly connections = new Map<string, Connection>();
  /**
   * Connections that count, by owner: the one that has been without a request for longest first.
   */
  private readonly counted = new Map<string, Set<Connection>>();
  private reportedAtMs = -Infinity;

  constructor(options: ConnectionLimitsOptions) {
    this.options = options;
  }

  /** Counts the connections of a server, which may already be listening. */
  watch(server: Pick<Server, "on">): void {
    if (this.options.perAddress === 0) return;
    server.on("connection", (socket: Socket) => this.add(socket));
    server.on("request", (incoming: IncomingMessage, response: ServerResponse) => {
      const connection = this.connections.get(nameOf(incoming.socket));
      if (connection === undefined) return;
      connection.requests += 1;
      response.once("close", () => this.endRequest(connection));
    });
    server.on("upgrade", (incoming: IncomingMessage) => {
      const connection = this.connections.get(nameOf(incoming.socket));
      if (connection !== undefined) connection.requests += 1;
    });
  }

  /** Stops counting a connection that has shown a good credential (CL1). */
  know({ socket }: Pick<IncomingMessage, "socket">): void {
    const connection = this.connections.get(nameOf(socket));
    if (connection !== undefined) this.uncount(connection);
  }

  private add(socket: Socket): void {
    const { perAddress, proxies } = this.options;
    const address = socket.remoteAddress;
    // A destroyed socket was refused by an earlier listener.
    if (socket.destroyed || address === undefined || proxies.trusts(address)) return;
    const owner = ownerOfAddress(address);
    const counted = this.counted.get(owner) ?? new Set();
    if (counted.size >= perAddress) {
      this.report(owner);
      const idle = [...counted].find(({ requests }) => requests === 0);
      if (idle === undefined) return void socket.destroy();
      this.uncount(idle);
      idle.socket.destroy();
    }
    const [name, connection] = [nameOf(socket), { socket, owner, requests: 0 }];
    this.connections.set(name, connection);
    this.counted.set(owner, counted.add(connection));
    socket.once("close", () => {
      this.connections.delete(name);
      this.uncount(connection);
    });
  }

  private endRequest(connection: Connection): void {
    connection.requests -= 1;
    const counted = this.counted.get(connection.owner);
    // Moved to the end: it has been without a request for the shortest time.
    if (counted?.delete(connection) === true) counted.add(connection);
  }

  private uncount(connection: Connection): void {
    const counted = this.counted.get(connection.owner);
    counted?.delete(connection);
    if (counted?.size === 0) this.counted.delete(connection.owner);
  }

  private report(owner: string): void {
    if (performance.now() - this.reportedAtMs < REPORT_EVERY_MS) return;
    this.reportedAtMs = performance.now();
    const { perAddress, log } = this.options;
    log.warn(
      { owner, perAddress },
      "connections closed: an address had too many without a credential",
    );
  }
}

/** The same name for a connection and for the TLS socket on it. */
function nameOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`;
}
