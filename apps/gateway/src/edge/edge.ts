/**
 * The edge: carries traffic from outside into sandboxes, through the node-agent of the host each
 * runs on. How sandboxes are named outside is the scheme's business: a loopback address each
 * (loopback.ts), or host names below a domain (domain.ts). What passes, and how, is the same in
 * both.
 *
 * ED1  Any gateway serves every sandbox: which ones there are is read from the database.
 * ED2  Port 7777, the guest agent's, is passed with the sandbox's own token or its owner's API key;
 *      /health, /info and /ping are open. The other ports are passed as the sandbox's
 *      `preview_access` says (route.ts); browsers pass with a link's cookie (preview-session.ts).
 * ED3  A sandbox that does not run is answered at once with 409, or resumed if its policy says so
 *      (wake.ts); a 5xx is sent only when nothing was carried out (proxy-request.ts).
 */
import type { SandboxEventMessage } from "@torpor/contracts";
import type { SandboxRow } from "@torpor/db";

export interface Edge {
  /** URL of the sandbox's agent. The same over its whole life: SDK objects read it once. */
  publicHost(sandbox: Pick<SandboxRow, "id" | "region" | "edgeAddress">): string;
  /** Scheme and host of a port of its guest, without a slash behind them. */
  previewOrigin(sandbox: Pick<SandboxRow, "id" | "region" | "edgeAddress">, port: number): string;
  /** True: a round is to be made for it soon. */
  hear(event: SandboxEventMessage): boolean;
  /** One round of what has to be looked after again and again. */
  reconcile(): Promise<Record<string, number>>;
  /**
   * Takes no connection any more, and resolves when those that there are have ended: each does with
   * what it carries.
   */
  drain(): Promise<void>;
  /** Ends every listener and connection. */
  close(): Promise<void>;
}
