import type { ClientRequest } from "node:http";
import {
  DATA_PLANE_HEADERS,
  type HostId,
  type RunNamed,
  runTicket,
  type SandboxId,
} from "@torpor/contracts";
import { type FleetRequest, type FleetTls, requestTo } from "@torpor/identity";
import { LRUCache } from "lru-cache";

/** The destination of a proxy request, and the headers to add. */
export interface AgentTarget {
  /** Begins a request to that host and to no other. */
  request(options: FleetRequest): ClientRequest;
  headers: Record<string, string>;
  /** Identifies the run: differs when the sandbox has moved on to another run, or another host. */
  run: string;
}

export interface RunAtHost {
  sandboxId: SandboxId;
  epoch: number;
  host: { id: HostId; dataPlaneUrl: string; ticketKey: string | null };
}

/** Credentials that hosts require of a gateway. */
export interface HostKeys {
  /** For hosts of 0.1.0, which have no tickets; undefined: such hosts are not used. */
  hostKey: string | undefined;
  /** This gateway's certificate, for hosts with TLS. */
  tls: FleetTls | undefined;
}

const tickets = new LRUCache<string, string>({ max: 10_000 });
/** Caches tickets: all requests to a run have the same one. */
function ticketFor(ticketKey: string, run: RunNamed): string {
  const named = `${ticketKey} ${run.sandboxId} ${run.epoch}`;
  const ticket = tickets.get(named) ?? runTicket(ticketKey, run);
  tickets.set(named, ticket);
  return ticket;
}

/**
 * The target for one run of a sandbox at its host, or the reason why there is none. The reason is a
 * value: a bad registration of one host must not affect the sandboxes of others.
 */
export function targetOf(
  { sandboxId, epoch, host }: RunAtHost,
  port: number,
  keys: HostKeys,
): AgentTarget | Error {
  const { id: hostId, dataPlaneUrl, ticketKey } = host;
  const url = URL.parse(dataPlaneUrl);
  if (url === null) return new Error(`host ${hostId} has no address: ${dataPlaneUrl}`);
  if (url.protocol === "https:" && keys.tls === undefined)
    return new Error(
      `host ${hostId} is reached by TLS alone, and this gateway has no certificate: set TLS_CERT_FILE`,
    );
  if (ticketKey === null && keys.hostKey === undefined)
    return new Error(
      `host ${hostId} knows no tickets: upgrade it, or set HOST_DATA_KEY_FILE until then`,
    );
  return {
    request: (options) =>
      requestTo(url, { tls: keys.tls, expected: { role: "host", hostId } }, options),
    headers: {
      [DATA_PLANE_HEADERS.sandboxId]: sandboxId,
      [DATA_PLANE_HEADERS.epoch]: String(epoch),
      [DATA_PLANE_HEADERS.port]: String(port),
      ...(ticketKey === null
        ? { [DATA_PLANE_HEADERS.hostKey]: keys.hostKey ?? "" }
        : { [DATA_PLANE_HEADERS.ticket]: ticketFor(ticketKey, { sandboxId, epoch }) }),
    },
    run: `${sandboxId} ${epoch} ${dataPlaneUrl}`,
  };
}
