export type { TakeTurn } from "./limited-client.ts";
export type { Database, Tx } from "./database.ts";
export { openDatabase, type DatabaseHandle } from "./client.ts";
export { applyBatched, decide, type Decided, type Decision } from "./decide.ts";
export {
  DATABASE_USERS,
  type DatabaseUser,
  type Passwords,
  setUpDatabaseUsers,
} from "./database-users.ts";
export { forEveryOrganization, forOrganization } from "./organization-scope.ts";
export { type DrainedSandboxEnd, type DrainStatus, type FindingKind } from "./host-records.ts";
export { migrate } from "./migrate.ts";
export { DRAINER, type Requester } from "@torpor/plans";
export {
  readSnapshot,
  constraintName,
  inTransaction,
  isRefusedValue,
  sqlState,
  UNIQUE_VIOLATION,
} from "./transaction.ts";
export {
  type AcceptCreate,
  acceptCreate,
  type AcceptedOperation,
  findRepeat,
} from "./queries/accept.ts";
export { type AcceptRequest, acceptRequest, acceptWithin } from "./queries/accept-request.ts";
export * from "./queries/api-keys.ts";
export { type AppliedOne, applyPlan, applyPlans } from "./queries/apply-plans.ts";
export * from "./queries/audit.ts";
export * from "./queries/heartbeats.ts";
export * from "./queries/deletions.ts";
export * from "./queries/drains.ts";
export * from "./queries/drain-progress.ts";
export { readDueWork, type Work } from "./queries/due-work.ts";
export * from "./queries/edge-sandboxes.ts";
export * from "./queries/env-vars.ts";
export * from "./queries/findings.ts";
export * from "./queries/host-admissions.ts";
export * from "./queries/host-certificates.ts";
export * from "./queries/host-events.ts";
export * from "./queries/host-loss.ts";
export * from "./queries/host-overviews.ts";
export { pruneHostChecks } from "./queries/host-checks.ts";
export * from "./queries/hosts.ts";
export * from "./queries/inventory.ts";
export * from "./queries/leases.ts";
export { noteAnswering } from "./queries/lease-service.ts";
export * from "./queries/move-sandbox.ts";
export * from "./queries/operations.ts";
export * from "./queries/organizations.ts";
export * from "./queries/outbox.ts";
export * from "./queries/ping.ts";
export * from "./queries/placement.ts";
export * from "./queries/policies.ts";
export * from "./queries/quotas.ts";
export * from "./queries/refused-messages.ts";
export type { IncarnationRow, StoredSnapshotRow } from "./queries/rows.ts";
export * from "./queries/sandboxes.ts";
export * from "./queries/snapshots.ts";
export * from "./queries/templates.ts";
export { readView, readViews, type SandboxRows, type WantedView } from "./queries/views.ts";
