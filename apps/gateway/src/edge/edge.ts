/**
 * The edge: carries a sandbox's `public_host` traffic to its guest agent, through the node-agent of the host it runs on.
 *
 * ED1  One listener per living sandbox, on its own loopback address, shared with other gateways on the machine (SO_REUSEPORT). Which ones is read from the database, so any
 *      gateway serves every sandbox.
 * ED2  A request passes with the sandbox's own token, or its owner's API key; /health, /info and /ping are open (route.ts).
 * ED3  A sandbox that does not run is answered at once with 409; a 5xx is sent only when nothing was carried out (exchange.ts).
 * ED4  A listener is closed only on the word of a read that began after it was opened, so a sandbox that is just being created is never cut off.
 */
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { listEdgeAddresses } from "@torpor/db";
import { type CarryDependencies, carryRequest, carryUpgrade } from "./carry.ts";

/** Per sandbox. More are refused by the kernel's backlog and time out on the client's side. */
const MAX_CONNECTIONS = 512;
const HEADERS_LIMIT_MS = 15_000;
const KEEP_ALIVE_MS = 65_000;

interface Listener {
  server: Server;
  sockets: Set<Socket>;
  listening: Promise<boolean>;
}

export interface EdgeOptions extends CarryDependencies {
  port: number;
}

export class Edge {
  readonly port: number;
  private readonly options: EdgeOptions;
  private readonly listeners = new Map<string, Listener>();
  /** Addresses that could not be listened on: reported once, tried again in each round. */
  private readonly failing = new Set<string>();

  constructor(options: EdgeOptions) {
    this.options = options;
    this.port = options.port;
  }

  /** Resolves once the address is served, or it is noted why it cannot be yet. Never rejects. */
  async serve(address: string): Promise<void> {
    await this.open(address);
  }

  /** Opens what is missing and closes what is gone. */
  async reconcile(): Promise<{ serving: number; opened: number; closed: number }> {
    const before = [...this.listeners.keys()];
    const wanted = new Set(await listEdgeAddresses(this.options.db));
    const missing = [...wanted].filter((address) => !this.listeners.has(address));
    const opened = await Promise.all(missing.map((address) => this.open(address)));
    const gone = before.filter((address) => !wanted.has(address));
    for (const address of gone) this.shut(address);
    for (const address of this.failing) if (!wanted.has(address)) this.failing.delete(address);
    return { serving: this.listeners.size, opened: opened.filter(Boolean).length, closed: gone.length };
  }

  /** Ends every listener and connection. */
  close(): Promise<void> {
    for (const address of this.listeners.keys()) this.shut(address);
    return Promise.resolve();
  }

  private shut(address: string): void {
    const listener = this.listeners.get(address);
    this.listeners.delete(address);
    listener?.server.close();
    // Upgraded connections are the server's no more: it would leave them open.
    for (const socket of listener?.sockets ?? []) socket.destroy();
  }

  private open(address: string): Promise<boolean> {
    const known = this.listeners.get(address);
    if (known !== undefined) return known.listening;
    const server = this.serverFor(address);
    const sockets = new Set<Socket>();
    server.on("connection", (socket) => {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.setKeepAlive(true, 30_000);
      socket.once("close", () => sockets.delete(socket));
    });
    const listener: Listener = { server, sockets, listening: this.listen(server, address) };
    this.listeners.set(address, listener);
    void listener.listening.then((listens) => {
      if (!listens && this.listeners.get(address) === listener) this.listeners.delete(address);
    });
    return listener.listening;
  }

  private serverFor(address: string): Server {
    const server = createServer(
      {
        shouldUpgradeCallback: (incoming: IncomingMessage) => incoming.headers.upgrade?.toLowerCase() === "websocket",
        headersTimeout: HEADERS_LIMIT_MS,
        // Uploads take as long as they take.
        requestTimeout: 0,
        keepAliveTimeout: KEEP_ALIVE_MS,
      },
      (incoming, response) => void carryRequest(this.options, address, incoming, response),
    );
    server.on(
      "upgrade",
      (incoming: IncomingMessage, socket: Duplex, head: Buffer) => void carryUpgrade(this.options, address, incoming, socket, head),
    );
    server.maxConnections = MAX_CONNECTIONS;
    return server;
  }

  private listen(server: Server, address: string): Promise<boolean> {
    const { log } = this.options;
    return new Promise((resolve) => {
      server.on("error", (err) => {
        if (!this.failing.has(address))
          log.error({ err, address, port: this.port }, "edge address cannot be listened on; tried again every few seconds");
        this.failing.add(address);
        resolve(false);
      });
      server.listen({ host: address, port: this.port, reusePort: true }, () => {
        this.failing.delete(address);
        resolve(true);
      });
    });
  }
}
