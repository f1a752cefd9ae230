import type { Database, OutboxRow } from "@torpor/db";
import type { Envelope, Logger } from "@torpor/service";
import type { HostRules } from "./admission.ts";
import type { HostNetworks } from "./host-networks.ts";
import type { Placer } from "./placer.ts";

/** How long a host may be silent. */
export interface HostTerms {
  leaseMs: number;
  /**
   * After the lease, until what its fence has frozen is run elsewhere: for the freezing itself, and
   * for clocks that do not go alike.
   */
  lossMarginMs: number;
}

export const DEFAULT_HOST_TERMS: HostTerms = { leaseMs: 8_000, lossMarginMs: 3_000 };

/** What every decision of the scheduler is made from. */
export interface Deps {
  db: Database;
  log: Logger;
  placer: Placer;
  /** For environment variables, in the database. */
  envelope: Envelope;
  /** So many times the vCPUs that a host offers may be reserved there. */
  vcpuOvercommit: number;
  hostTerms: HostTerms;
  /** Its intent, or the end of what was before it, begins an operation sooner. */
  driveAfterMs: number;
  hostNetworks: HostNetworks;
  hostRules: HostRules;
  /** Publishes committed outbox rows at once; what fails is left to the relay. Never throws. */
  publishCommitted(messages: OutboxRow[]): Promise<void>;
}

export type Begun =
  | { kind: "begun" }
  /** Ended without a command: satisfied, refused, or a delete. */
  | { kind: "ended" }
  /** Something executes before it, or no host can take it now. */
  | { kind: "waits" }
  /** Not a waiting operation (any more). */
  | { kind: "nothing" };
