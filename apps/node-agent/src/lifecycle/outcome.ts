import type { Cause, ObservedState, SnapshotFacts } from "@torpor/contracts";

/** Result of an operation, and the state of the sandbox after it. */
export interface Outcome {
  state: ObservedState;
  snapshot?: SnapshotFacts;
  generation?: number;
  /** Why the sandbox is stopped, if the operation did not ask for that. */
  cause?: Cause;
  failed?: Cause;
  cancelled?: boolean;
  /** True if the disk is as the operation found it, with the same name or none. */
  isUntouched?: boolean;
  /** True if this host has no copy of the sandbox, which rests on another host or in the store. */
  isElsewhere?: boolean;
}
