import { GUEST_AGENT_PORT } from "@torpor/contracts";
import type { Database, SandboxView } from "@torpor/db";

/** By which name a client came in: to which sandbox, and to which port of its guest. */
export interface Endpoint {
  /** As the client wrote it, for messages and logs. */
  name: string;
  /** Of the guest. */
  port: number;
  /** As clients see it, where the connection does not say otherwise. */
  scheme: "http" | "https";
  /** Undefined: there is no such sandbox (any more). */
  find(db: Database): Promise<SandboxView | undefined>;
}

/** A port of the user's own; the guest agent's is the SDKs'. */
export function isPreview(door: Endpoint): boolean {
  return door.port !== GUEST_AGENT_PORT;
}
