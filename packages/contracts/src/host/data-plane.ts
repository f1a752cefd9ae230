/**
 * Data plane between the gateway's edge and a node-agent: HTTP (and WebSocket upgrades), with the
 * guest's path unchanged and with these request headers. The agent refuses a request without the
 * ticket of the run (401), or for a sandbox or epoch that it does not run (409). The agent strips
 * the headers before the guest sees them.
 */
export const DATA_PLANE_HEADERS = {
  sandboxId: "x-torpor-sandbox",
  epoch: "x-torpor-epoch",
  /** Guest port as a decimal; the guest agent's port where absent. */
  port: "x-torpor-port",
  /** `runTicket`, or `snapshotTicket` (tickets.ts). */
  ticket: "x-torpor-ticket",
  /** A single key of the fleet instead of tickets, if one of the two programs is of 0.1.0. */
  hostKey: "x-torpor-host-key",
  /** A call of the edge itself, not of its client: one of DATA_PLANE_CONTROLS. */
  control: "x-torpor-control",
} as const;

/** Control calls of the guest agent that the edge may make, and their paths there. */
export const DATA_PLANE_CONTROLS = { ports: "/_torpor/ports" } as const;

/**
 * Reply of a guest agent to `DATA_PLANE_CONTROLS.ports`: the TCP ports with a listener in the
 * guest, ascending, and a tag that changes when they do.
 */
export interface GuestPorts {
  ports: number[];
  etag: string;
}

/**
 * Snapshots, between node-agents: on the same server, with the ticket of the snapshot and WITHOUT
 * the header `sandboxId`. Every request of an edge carries that header, so no client of an edge
 * gets there. `GET <base>/<sandboxId>/<generation>/<manifestSha256>/index`, then
 * `…/chunks/<number>/<file>` for what the index names. 404 when the host does not hold that
 * snapshot.
 */
export const SNAPSHOT_PATH = "/_torpor/snapshots/";

/** Between node-agent and guest agent. */
export const GUEST_AGENT_KEY_HEADER = "x-torpor-agent-key";
export const GUEST_AGENT_PORT = 7777;
/**
 * `GET <path>?port=N` with `Upgrade: torpor-tunnel`: 101, then the bytes of a connection to that
 * port of the guest. 404 with PORT_NOT_OPEN where nothing listens.
 */
export const GUEST_TUNNEL = { path: "/_torpor/tunnel", protocol: "torpor-tunnel" } as const;
