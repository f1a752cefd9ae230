/**
 * Data plane between the gateway's edge and a node-agent: plain HTTP (and WebSocket upgrades), the guest's path unchanged, with these request headers. The agent refuses a
 * request without the host data key (401), for a sandbox or epoch it does not run (409), and strips the headers before the guest sees them.
 */
export const DATA_PLANE_HEADERS = {
  sandboxId: "x-torpor-sandbox",
  epoch: "x-torpor-epoch",
  /** Guest port as a decimal; the guest agent's port where absent. */
  port: "x-torpor-port",
  hostKey: "x-torpor-host-key",
} as const;

/** Between node-agent and guest agent. */
export const GUEST_AGENT_KEY_HEADER = "x-torpor-agent-key";
export const GUEST_AGENT_PORT = 7777;
