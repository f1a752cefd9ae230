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
export * from "./queries/drains/drain-progress.ts";
export * from "./queries/drains/drains.ts";
export * from "./queries/hosts/findings.ts";
export * from "./queries/hosts/heartbeats.ts";
export * from "./queries/hosts/host-admissions.ts";
export * from "./queries/hosts/host-certificates.ts";
export { pruneHostChecks } from "./queries/hosts/host-checks.ts";
export * from "./queries/hosts/host-events.ts";
export * from "./queries/hosts/host-overviews.ts";
export * from "./queries/hosts/hosts.ts";
export * from "./queries/hosts/inventory.ts";
export { noteAnswering } from "./queries/hosts/lease-service.ts";
export * from "./queries/hosts/leases.ts";
export * from "./queries/hosts/placement.ts";
export * from "./queries/incarnations/host-loss.ts";
export * from "./queries/incarnations/incarnations.ts";
export * from "./queries/operations/operations.ts";
export * from "./queries/organizations/api-keys.ts";
export * from "./queries/organizations/audit.ts";
export * from "./queries/organizations/organizations.ts";
export * from "./queries/organizations/quotas.ts";
export * from "./queries/outbox/outbox.ts";
export * from "./queries/outbox/refused-messages.ts";
export {
  type AcceptRequest,
  acceptRequest,
  acceptWithin,
} from "./queries/sandboxes/accept-request.ts";
export {
  type AcceptCreate,
  acceptCreate,
  type AcceptedOperation,
  findRepeat,
} from "./queries/sandboxes/accept.ts";
export { type AppliedOne, applyPlan, applyPlans } from "./queries/sandboxes/apply-plans.ts";
export * from "./queries/sandboxes/deletions.ts";
export * from "./queries/sandboxes/edge-sandboxes.ts";
export * from "./queries/sandboxes/env-vars.ts";
export * from "./queries/sandboxes/policies.ts";
export * from "./queries/sandboxes/sandbox-events.ts";
export * from "./queries/sandboxes/sandbox-row.ts";
export * from "./queries/sandboxes/sandboxes.ts";
export {
  readView,
  readViews,
  type SandboxRows,
  type WantedView,
} from "./queries/sandboxes/views.ts";
export * from "./queries/snapshots/snapshots.ts";
export * from "./queries/snapshots/store-references.ts";
export * from "./queries/templates/templates.ts";
export { readDueWork, type Work } from "./queries/due-work.ts";
export * from "./queries/ping.ts";
