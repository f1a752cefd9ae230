/**
 * The edge: carries traffic from outside into sandboxes, through the node-agent of each sandbox's
 * host. Two schemes name the sandboxes outside: a loopback address each (loopback.ts), or host
 * names below a domain (domain.ts). What passes, and how, is the same in both.
 *
 * ED1  Any gateway serves every sandbox: the sandboxes are read from the database.
 * ED2  Port 7777, the guest agent's, needs the sandbox's own token or its owner's API key; /health,
 *      /info and /ping are open. The other ports follow the sandbox's `preview_access` (route.ts);
 *      browsers pass with a link's cookie (preview-session.ts).
 * ED3  A request to a sandbox that does not run gets a 409 at once, or resumes the sandbox if its
 *      policy says so (wake.ts). A 5xx is sent only when the request had no effect
 *      (proxy-request.ts).
 */
import type { SandboxEventMessage } from "@torpor/contracts";
import type { SandboxRow } from "@torpor/db";

export interface Edge {
  /** URL of the sandbox's guest agent. The same over its whole life: SDK objects read it once. */
  publicHost(sandbox: Pick<SandboxRow, "id" | "region" | "edgeAddress">): string;
  /** Scheme and host of a port of the guest, without a trailing slash. */
  previewOrigin(sandbox: Pick<SandboxRow, "id" | "region" | "edgeAddress">, port: number): string;
  /** True if a round should follow soon. */
  hear(event: SandboxEventMessage): boolean;
  /** One round of the work that repeats. Returns its counts. */
  reconcile(): Promise<Record<string, number>>;
  /**
   * Accepts no more connections, and resolves when the existing ones have ended: each ends with the
   * request that it carries.
   */
  drain(): Promise<void>;
  /** Ends every listener and connection. */
  close(): Promise<void>;
}
