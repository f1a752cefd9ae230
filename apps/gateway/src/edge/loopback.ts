/**
 * The edge for one machine, which needs no name server: each sandbox has an address of its own in
 * 127.64.0.0/10, and the local address of a connection identifies the sandbox.
 *
 * LB1  One listener on all addresses of this machine serves all guest agents: a sandbox costs
 *      nothing before a client connects. The sandbox's row is read for each request, and decides.
 * LB2  Nothing is served to the outside: a connection to an address outside the loopback network is
 *      closed before anything is read from it.
 * - Previews are served where guests listen (loopback-previews.ts).
 * LB4  Listeners are shared with other gateways on the machine (SO_REUSEPORT).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { findEdgeSandboxes, findSandboxByEdgeAddress, listRunningAtEdge } from "@torpor/db";
import { GUEST_AGENT_PORT, type SandboxEventMessage, type SandboxId } from "@torpor/contracts";
import { ConfigurationError } from "@torpor/service";
import type { IncomingMessage } from "node:http";
import { type CarryDependencies, carryRequest, carryUpgrade } from "./carry.ts";
import type { Endpoint } from "./endpoint.ts";
import type { Edge } from "./edge.ts";
import { LoopbackPreviews } from "./loopback-previews.ts";
import { createEdgeServer, type EdgeServer } from "./server.ts";

/**
 * Connections to one port of one sandbox: more than CONNECTIONS_PER_ADDRESS, which counts those of
 * one client.
 */
const MAX_CONNECTIONS_PER_ENDPOINT = 2_048;
/** Time for which events are gathered, to read their sandboxes together. */
const GATHER_MS = 250;
const MAX_READ = 500;
/** Running sandboxes are read page by page, to find those that no event named. */
const PAGE = 500;
const PAGE_EVERY_MS = 1_500;

export interface LoopbackOptions extends CarryDependencies {
  /** Port of the guest agents. */
  port: number;
  /** Connections of all clients together. */
  maxConnections: number;
  /** Open files that previews may take. */
  previewFiles: number;
}

export class LoopbackEdge implements Edge {
  private readonly options: LoopbackOptions;
  private readonly edgeServer: EdgeServer;
  private readonly previews: LoopbackPreviews;
  private readAtMs = -Infinity;
  private pagedAtMs = -Infinity;
  /** Last id of the previous page; undefined: the next page is the first. */
  private lastId: SandboxId | undefined;

  private constructor(options: LoopbackOptions, edgeServer: EdgeServer) {
    this.options = options;
    this.edgeServer = edgeServer;
    const { port, previewFiles, hostKeys, log } = options;
    const take = edgeServer.take;
    this.previews = new LoopbackPreviews({
      take,
      taken: port,
      maxFiles: previewFiles,
      hostKeys,
      log,
    });
  }

  /** Rejects when the port cannot be listened on. */
  static async listen(options: LoopbackOptions): Promise<LoopbackEdge> {
    const { port, maxConnections } = options;
    const endpointOf = ({ socket }: IncomingMessage) => loopbackEndpoint(socket, port);
    const edgeServer = createEdgeServer(
      {
        request: (incoming, response) =>
          carryRequest(options, endpointOf(incoming), incoming, response),
        upgrade: (incoming, socket, head) =>
          carryUpgrade(options, endpointOf(incoming), incoming, socket, head),
      },
      {
        ...options,
        maxPerAddress: Math.min(maxConnections, MAX_CONNECTIONS_PER_ENDPOINT),
        serves: isLoopback,
      },
    );
    const { server } = edgeServer;
    await new Promise<void>((resolve, reject) => {
      server.once("error", (cause) =>
        reject(new ConfigurationError(notListening(port), { cause })),
      );
      server.listen({ host: "0.0.0.0", port, reusePort: true }, resolve);
    });
    server.on("error", (err) =>
      options.log.error({ err }, "listener of the edge failed to take a connection"),
    );
    return new LoopbackEdge(options, edgeServer);
  }

  publicHost({ edgeAddress }: { edgeAddress: string }): string {
    return `http://${edgeAddress}:${this.options.port}`;
  }

  previewOrigin({ edgeAddress }: { edgeAddress: string }, port: number): string {
    return `http://${edgeAddress}:${port}`;
  }

  hear(event: SandboxEventMessage): boolean {
    return this.previews.hear(event);
  }

  async reconcile(): Promise<Record<string, number>> {
    await sleep(Math.max(0, this.readAtMs + GATHER_MS - performance.now()));
    this.readAtMs = performance.now();
    await this.readDue();
    if (this.readAtMs >= this.pagedAtMs + PAGE_EVERY_MS) await this.readPages();
    await this.previews.retry();
    return this.previews.counts();
  }

  async drain(): Promise<void> {
    this.previews.drain();
    await this.edgeServer.drain();
  }

  close(): Promise<void> {
    this.previews.close();
    this.edgeServer.shut();
    return Promise.resolve();
  }

  private async readDue(): Promise<void> {
    const due = this.previews.takeDue(MAX_READ);
    if (due.length === 0) return;
    try {
      this.previews.follow(due, await findEdgeSandboxes(this.options.db, due));
    } catch (error) {
      this.previews.giveBack(due);
      throw error;
    }
  }

  /** Reads one page; in the first round since the start all of them. */
  private async readPages(): Promise<void> {
    const isFirst = this.pagedAtMs === -Infinity;
    do {
      const page = await listRunningAtEdge(this.options.db, { limit: PAGE, afterId: this.lastId });
      this.previews.follow([], page);
      this.lastId = page.length < PAGE ? undefined : page.at(-1)?.id;
    } while (isFirst && this.lastId !== undefined && !this.previews.isFull());
    this.pagedAtMs = this.readAtMs;
  }
}

/** The sandbox and the port of its guest, by the local address of the connection. */
function loopbackEndpoint(socket: IncomingMessage["socket"], edgePort: number): Endpoint {
  const { localAddress = "", localPort = edgePort } = socket;
  return {
    name: `${localAddress}:${localPort}`,
    port: localPort === edgePort ? GUEST_AGENT_PORT : localPort,
    scheme: "http",
    find: (db) => findSandboxByEdgeAddress(db, localAddress),
  };
}

const isLoopback = (localAddress: string) => localAddress.startsWith("127.");

const notListening = (port: number) =>
  `port ${port} cannot be listened on, for the agents of sandboxes: another program has it on some ` +
  "address of this machine, and it is needed on all of 127.0.0.0/8; end that program, or set EDGE_PORT";
