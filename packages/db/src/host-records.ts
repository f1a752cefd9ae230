/** Values of enum columns in the tables about hosts. */

export const DRAIN_STATUSES = ["active", "undoing", "done", "aborted", "expired"] as const;
export type DrainStatus = (typeof DRAIN_STATUSES)[number];

/**
 * How a drain ended for a sandbox. `moved`: runs, or is resumed, on another host. `released`:
 * paused or stopped, and only in the store. `returned`: the drain ended first, and the sandbox is
 * as it was. `gone`: deleted.
 */
export const DRAINED_SANDBOX_ENDS = ["moved", "released", "returned", "gone"] as const;
export type DrainedSandboxEnd = (typeof DRAINED_SANDBOX_ENDS)[number];

/**
 * `unknown`: the database has no such sandbox, or no such run of it. `stale`: the database has a
 * higher epoch elsewhere. `missing`: the database has the sandbox on the host, the host does not.
 */
export const FINDING_KINDS = ["unknown", "stale", "missing"] as const;
export type FindingKind = (typeof FINDING_KINDS)[number];

/** An image that a host reports to hold. */
export interface HostImage {
  templateName: string;
  sha256: string;
}
