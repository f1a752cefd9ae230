import { GUEST_AGENT_PORT } from "@torpor/contracts";
import type { Database, SandboxView } from "@torpor/db";

/** A port of a sandbox's guest, under the name that a client used. */
export interface Endpoint {
  /** The name as the client wrote it, for messages and logs. */
  name: string;
  /** Port of the guest. */
  port: number;
  /** Scheme that clients see, unless the connection or a trusted proxy shows another. */
  scheme: "http" | "https";
  /** Undefined: there is no such sandbox, or no longer. */
  find(db: Database): Promise<SandboxView | undefined>;
}

/** True for every port but the guest agent's, which is the SDKs'. */
export function isPreview(endpoint: Endpoint): boolean {
  return endpoint.port !== GUEST_AGENT_PORT;
}
