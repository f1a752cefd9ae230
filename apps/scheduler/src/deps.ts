import type { Database, OutboxRow } from "@torpor/db";
import type { Envelope, Logger } from "@torpor/service";
import type { HostRules } from "./hosts/admission.ts";
import type { HostNetworks } from "./hosts/host-networks.ts";
import type { Placer } from "./placement/placer.ts";

/** Limits for the silence of a host. */
export interface HostTerms {
  leaseMs: number;
  /**
   * Time after the lease, until a run that the fence has frozen is restored elsewhere. The margin
   * covers the freezing itself, and clocks that differ in rate.
   */
  lossMarginMs: number;
}

export const DEFAULT_HOST_TERMS: HostTerms = { leaseMs: 8_000, lossMarginMs: 3_000 };

/** Dependencies of every decision of the scheduler. */
export interface Deps {
  db: Database;
  log: Logger;
  placer: Placer;
  /** Encrypts environment variables in the database. */
  envelope: Envelope;
  /** Ratio of the vCPUs that may be reserved on a host to the vCPUs that the host offers. */
  vcpuOvercommit: number;
  hostTerms: HostTerms;
  /**
   * Age at which the reconciler begins a waiting operation. The intent, or the end of the operation
   * before it, begins the operation sooner.
   */
  driveAfterMs: number;
  hostNetworks: HostNetworks;
  hostRules: HostRules;
  /** Publishes committed outbox rows at once; the relay publishes rows that fail. Never throws. */
  publishCommitted(messages: OutboxRow[]): Promise<void>;
}

export type Begun =
  | { kind: "begun" }
  /** The operation ended without a command: satisfied, refused, or a delete. */
  | { kind: "ended" }
  /** Another operation executes, or no host can take the sandbox now. */
  | { kind: "waits" }
  /** The operation does not wait (any more). */
  | { kind: "nothing" };
