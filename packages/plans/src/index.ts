export {
  type Assignment,
  type BeginDecision,
  needsMemory,
  planAssignment,
  planBegin,
} from "./begin.ts";
export {
  commandFor,
  type Moment,
  type SnapshotSource,
  orphanCommand,
  systemCommand,
} from "./commands.ts";
export { planCreate } from "./create.ts";
export { isPlacementRejection, planExpiry } from "./expire.ts";
export { type ForeignDecision, judgeForeign } from "./foreign.ts";
export { FOUND_ON_HOST, type ObservationDecision, planObservation } from "./observe.ts";
export { type Applied, movedBy, type Plan, planMoves, type SandboxPatch } from "./plan.ts";
export { planRelease, isAtRest } from "./release.ts";
export {
  type BeginsAt,
  DRAINER,
  planRequest,
  type RequestDecision,
  type Requester,
} from "./request.ts";
export { planEndOfDebt, planRestore, planRestoreAgain, restoredBy, restsAs } from "./restore.ts";
export type { Incarnation, Operation, Sandbox, SnapshotRow, View } from "./rows.ts";
export { columnsOnEnter } from "./columns-on-enter.ts";
