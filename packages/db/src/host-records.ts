/** Words of the tables about hosts. */

export const DRAIN_STATUSES = ["active", "undoing", "done", "aborted", "expired"] as const;
export type DrainStatus = (typeof DRAIN_STATUSES)[number];

/**
 * `moved`: runs, or is resumed, on another host. `released`: paused or stopped, in the store alone.
 * `returned`: the drain ended first, and the sandbox is as it was. `gone`: deleted.
 */
export const DRAINED_SANDBOX_ENDS = ["moved", "released", "returned", "gone"] as const;
export type DrainedSandboxEnd = (typeof DRAINED_SANDBOX_ENDS)[number];

/**
 * `unknown`: the database has no such sandbox, or no such run of it. `stale`: it knows a higher
 * epoch, elsewhere. `missing`: the database says it is there, the host does not have it.
 */
export const FINDING_KINDS = ["unknown", "stale", "missing"] as const;
export type FindingKind = (typeof FINDING_KINDS)[number];

/** An image that a host says it holds. */
export interface HostImage {
  templateName: string;
  sha256: string;
}
