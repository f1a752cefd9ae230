import type { ClientRequest } from "node:http";
import { DATA_PLANE_HEADERS, type RunNamed, runTicket } from "@torpor/contracts";
import { type FleetRequest, type FleetTls, requestTo } from "@torpor/identity";
import { Recent } from "@torpor/service";

/** Where a request goes, and with which headers added. */
export interface AgentTarget {
  /** A request to that host and to no other. */
  request(options: FleetRequest): ClientRequest;
  headers: Record<string, string>;
  /** Differs when the sandbox has moved on: another run, or another host. */
  run: string;
}

export interface RunAtHost {
  sandboxId: string;
  epoch: number;
  host: { id: string; dataPlaneUrl: string; ticketKey: string | null };
}

/** What hosts ask of a gateway. */
export interface HostKeys {
  /** For hosts of 0.1.0, which know no tickets; undefined: they are not served. */
  hostKey: string | undefined;
  /** This gateway's certificate, for hosts with one. */
  tls: FleetTls | undefined;
}

const tickets = new Recent<string>(10_000);
/** The same for each request to that run. */
const ticketFor = (ticketKey: string, run: RunNamed) =>
  tickets.getOrMake(`${ticketKey} ${run.sandboxId} ${run.epoch}`, () => runTicket(ticketKey, run));

/**
 * One run of a sandbox, at the host that it is on. Or why there is none, which a host's own
 * registration is to blame for: no other's sandboxes suffer for it.
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
