/**
 * The host's data plane for the edge. It checks the client, and for which run of which sandbox a
 * request is, and streams the request into the guest: to its agent, or through a tunnel of the
 * agent to any other port. The headers are in packages/contracts (data-plane.ts). A state conflict
 * is never answered with a 5xx: SDKs would send the request again.
 *
 * DP1  The agent's control calls are the host's own: no client reaches them, however the client
 *      spells the path.
 * DP2  Proxy requests count as use of the sandbox (activity.ts); the edge's own control calls do
 *      not.
 * DP3  Other hosts fetch snapshots here (snapshot-server.ts). Their requests name no sandbox in the
 *      headers. Every request of an edge does, so no client of an edge can be taken for a host.
 * DP4  A client shows the ticket of the run or snapshot. With TLS, only gateways get into guests,
 *      and only hosts get snapshots.
 */
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import {
  ADDED_HEADER_BYTES,
  DATA_PLANE_CONTROLS,
  DATA_PLANE_HEADERS,
  GUEST_AGENT_PORT,
  isSameSecret,
  MAX_HEADER_BYTES,
  runTicket,
  type SandboxId,
  SNAPSHOT_PATH,
  snapshotTicket,
  unverifiedSandboxId,
} from "@torpor/contracts";
import { type FleetTls, type SpiffeIdentity, peerOf } from "@torpor/identity";
import { messageOf } from "@torpor/service";
import { LRUCache } from "lru-cache";
import type { Activity, ProxiedRequest } from "./activity.ts";
import { forward, forwardUpgrade, type GuestEndpoint } from "./forward.ts";
import type { GuestRoute } from "./guest-tunnel.ts";
import { type Refusal, refuse, refuseUpgrade } from "./refusal.ts";
import { type SnapshotServer, snapshotNamed } from "./snapshot-server.ts";

type FindRoute = (sandboxId: SandboxId, epoch: number) => Promise<GuestRoute | undefined>;

interface Admitted extends GuestEndpoint {
  sandboxId: SandboxId;
  isControl: boolean;
}

const DRAIN_LOOK_MS = 20;
/** For the first request of a connection: gateways send it as soon as they are connected. */
const FIRST_REQUEST_LIMIT_MS = 3_000;
const HOST_ONLY_PATHS = "/_torpor";
const CONTROLS: Record<string, string | undefined> = DATA_PLANE_CONTROLS;
const NO_EXCHANGE: ProxiedRequest = { touch: () => {}, answered: () => {}, end: () => {} };

/** Credentials that a request has to show. */
interface Lock {
  ticketKey: string;
  /** Accepted in place of a ticket, because gateways and hosts of 0.1.0 have only this key. */
  hostKey?: string | undefined;
  tls?: FleetTls | undefined;
}

export interface DataPlaneOptions {
  lock: Lock;
  findRoute: FindRoute;
  activity: Activity;
  snapshots: Pick<SnapshotServer, "answer">;
}

interface DataPlane {
  server: Server;
  /**
   * Stops accepting connections. Open requests have `limitMs` to end, and a connection that was
   * accepted has some seconds to show its first request: its client may already have sent it, and
   * could not tell whether it was carried out. Upgraded connections, such as terminals, are not
   * waited for.
   */
  drain(limitMs: number): Promise<void>;
}

export function createDataPlane({
  lock,
  findRoute,
  activity,
  snapshots,
}: DataPlaneOptions): DataPlane {
  const answering = new Set<ServerResponse>();
  /** Accepted connections without a request yet, TLS handshake included. */
  const silent = new Set<string>();
  const begin = ({ isControl, sandboxId }: Admitted) =>
    isControl ? NO_EXCHANGE : activity.begin(sandboxId);
  const server = createLockedServer(lock, (incoming, response) => {
    silent.delete(clientOf(incoming.socket));
    if (isOfHost(incoming)) {
      const named = snapshotNamed(incoming.url ?? "/");
      const refusal = refusalOf(incoming, lock, "host", snapshotTicket(lock.ticketKey, named));
      if (refusal === undefined) void snapshots.answer(incoming, response);
      else refuse(incoming, response, refusal);
      return;
    }
    // A request counts from its arrival, not only once its sandbox is found.
    if (incoming.headers[DATA_PLANE_HEADERS.control] === undefined) answering.add(response);
    response.once("close", () => answering.delete(response));
    void admit(incoming, lock, findRoute).then(async (admitted) => {
      if ("code" in admitted) refuse(incoming, response, admitted);
      else await forward(incoming, response, admitted, begin(admitted));
    });
  });
  server.on("connection", (socket: Socket) => {
    const client = clientOf(socket);
    silent.add(client);
    socket.once("close", () => silent.delete(client));
  });
  server.on("upgrade", (incoming: IncomingMessage, socket: Duplex, head: Buffer) => {
    silent.delete(clientOf(incoming.socket));
    socket.on("error", () => socket.destroy());
    void admit(incoming, lock, findRoute).then(async (admitted) => {
      if ("code" in admitted) refuseUpgrade(incoming, socket, admitted);
      else await forwardUpgrade(incoming, socket, head, admitted, begin(admitted));
    });
  });
  // Executions and uploads have no limit here; the edge and the guest have their own.
  server.requestTimeout = 0;
  server.headersTimeout = 30_000;
  return {
    server,
    drain: async (limitMs) => {
      server.close();
      const began = performance.now();
      const isWithin = (limit: number) => performance.now() - began < Math.min(limit, limitMs);
      while (
        (answering.size > 0 && isWithin(limitMs)) ||
        (silent.size > 0 && isWithin(FIRST_REQUEST_LIMIT_MS))
      )
        await sleep(DRAIN_LOOK_MS);
      server.closeAllConnections();
    },
  };
}

/** The same for a TCP connection and for the TLS connection over it. */
const clientOf = ({ remoteAddress, remotePort }: Socket) => `${remoteAddress} ${remotePort}`;

function createLockedServer({ tls }: Lock, listener: RequestListener): Server {
  const maxHeaderSize = MAX_HEADER_BYTES + ADDED_HEADER_BYTES;
  if (tls === undefined) return createServer({ maxHeaderSize }, listener);
  return tls.createServer({ maxHeaderSize }, listener);
}

/**
 * Tickets of the runs that were requested last. Only a request with a valid ticket adds an entry,
 * so strangers cannot fill the cache.
 */
const tickets = new LRUCache<string, string>({ max: 10_000 });

/** DP4 */
function refusalOf(
  incoming: IncomingMessage,
  lock: Lock,
  role: SpiffeIdentity["role"],
  ticket: string,
): Refusal | undefined {
  const { headers } = incoming;
  const shown = (name: string) => String(headers[name] ?? "");
  const isOpen =
    isSameSecret(shown(DATA_PLANE_HEADERS.ticket), ticket) ||
    (lock.hostKey !== undefined && isSameSecret(shown(DATA_PLANE_HEADERS.hostKey), lock.hostKey));
  if (!isOpen) return NO_TICKET;
  return lock.tls === undefined || peerOf(incoming.socket)?.role === role ? undefined : NOT_FOR_YOU;
}

const NO_TICKET: Refusal = {
  code: "INVALID_TOKEN",
  message: "the ticket is missing, or not for this",
};
const NOT_FOR_YOU: Refusal = {
  code: "FORBIDDEN",
  message: "the certificate is not that of a program which may ask this",
};

/** DP3 */
function isOfHost({ headers, url = "/" }: IncomingMessage): boolean {
  return headers[DATA_PLANE_HEADERS.sandboxId] === undefined && url.startsWith(SNAPSHOT_PATH);
}

async function admit(
  incoming: IncomingMessage,
  lock: Lock,
  findRoute: FindRoute,
): Promise<Admitted | Refusal> {
  const sandboxId = unverifiedSandboxId(
    String(incoming.headers[DATA_PLANE_HEADERS.sandboxId] ?? ""),
  );
  const epoch = Number(incoming.headers[DATA_PLANE_HEADERS.epoch]);
  const named = `${lock.ticketKey} ${sandboxId} ${epoch}`;
  const ticket = tickets.get(named) ?? runTicket(lock.ticketKey, { sandboxId, epoch });
  const refusal = refusalOf(incoming, lock, "gateway", ticket);
  if (refusal !== undefined) return refusal;
  tickets.set(named, ticket);
  const port = Number(incoming.headers[DATA_PLANE_HEADERS.port] ?? GUEST_AGENT_PORT);
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    return { code: "INVALID_REQUEST", message: "there is no such port" };
  const control = incoming.headers[DATA_PLANE_HEADERS.control];
  if (port === GUEST_AGENT_PORT && !mayAsk(incoming.url ?? "/", control))
    return { code: "ENDPOINT_NOT_FOUND", message: "there is no such path in this sandbox's agent" };
  const route = await findRoute(sandboxId, epoch).catch((error: unknown): Refusal => ({
    code: "SERVICE_UNAVAILABLE",
    message: `This host cannot read where sandbox ${sandboxId} is: ${messageOf(error)}`,
  }));
  if (route !== undefined && "code" in route) return route;
  if (route === undefined) {
    return {
      code: "SANDBOX_NOT_RUNNING_HERE",
      message: `Sandbox ${sandboxId} does not run on this host at epoch ${epoch}.`,
    };
  }
  return { route, port, sandboxId, isControl: control !== undefined };
}

/** DP1: the path is checked as the agent will read it, which parses it as a URL. */
function mayAsk(url: string, control: string | string[] | undefined): boolean {
  const path = URL.parse(url, "http://guest")?.pathname;
  if (path === undefined) return false;
  return control === undefined
    ? !path.startsWith(HOST_ONLY_PATHS)
    : CONTROLS[String(control)] === path;
}
