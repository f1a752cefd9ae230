import type { Database } from "@torpor/db";
import type { Logger } from "@torpor/service";

/** What every decision of the scheduler is made from. */
export interface Deps {
  db: Database;
  log: Logger;
  /** Publishes committed outbox rows at once; what fails is left to the relay. Never throws. */
  publishCommitted(outboxIds: number[]): Promise<void>;
}

export type Begun =
  | { kind: "begun" }
  /** Ended without a command: satisfied, refused, or a delete. */
  | { kind: "ended" }
  /** Something executes before it, or no host can take it now. */
  | { kind: "waits" }
  /** Not a waiting operation (any more). */
  | { kind: "nothing" };
