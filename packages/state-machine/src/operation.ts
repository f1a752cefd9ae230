/**
 * The lifecycle of an operation: one accepted intent.
 *
 * O1  An ended operation never changes again, whatever is redelivered.
 * O2  `outcome_unknown` is not an end: the host's inventory, or its fencing, decides the outcome.
 * O3  Only a waiting operation can begin.
 */
import type { SandboxState, StableState, Transition } from "./sandbox.ts";

export const OPERATION_KINDS = ["create", "pause", "resume", "stop", "start", "delete"] as const;
export type OperationKind = (typeof OPERATION_KINDS)[number];

export const OPERATION_STATUSES = [
  "waiting",
  "executing",
  "outcome_unknown",
  "succeeded",
  "failed",
  "cancelled",
  "superseded",
] as const;
export type OperationStatus = (typeof OPERATION_STATUSES)[number];

export const OPERATION_EVENTS = [
  "begin",
  "succeed",
  "fail",
  "cancel",
  "supersede",
  "lose_contact",
] as const;
export type OperationEvent = (typeof OPERATION_EVENTS)[number];

// oxfmt-ignore
export const OPERATION_TABLE = {
  waiting:         { begin: "executing", succeed: "succeeded", fail: "failed", cancel: "cancelled", supersede: "superseded", lose_contact: "refuse" },
  executing:       { begin: "stay",      succeed: "succeeded", fail: "failed", cancel: "cancelled", supersede: "superseded", lose_contact: "outcome_unknown" },
  outcome_unknown: { begin: "refuse",    succeed: "succeeded", fail: "failed", cancel: "cancelled", supersede: "superseded", lose_contact: "stay" },
  succeeded:       { begin: "refuse",    succeed: "stay",      fail: "stay",   cancel: "stay",      supersede: "stay",       lose_contact: "stay" },
  failed:          { begin: "refuse",    succeed: "stay",      fail: "stay",   cancel: "stay",      supersede: "stay",       lose_contact: "stay" },
  cancelled:       { begin: "refuse",    succeed: "stay",      fail: "stay",   cancel: "stay",      supersede: "stay",       lose_contact: "stay" },
  superseded:      { begin: "refuse",    succeed: "stay",      fail: "stay",   cancel: "stay",      supersede: "stay",       lose_contact: "stay" },
} as const satisfies Record<OperationStatus, Record<OperationEvent, OperationStatus | "stay" | "refuse">>;

export const ENDED_STATUSES = [
  "succeeded",
  "failed",
  "cancelled",
  "superseded",
] as const satisfies readonly OperationStatus[];

/** Statuses of the one operation of a sandbox that a host may be working on. */
export const EXECUTING_STATUSES = [
  "executing",
  "outcome_unknown",
] as const satisfies readonly OperationStatus[];

export type OperationTransition = Transition<OperationStatus, OperationEvent>;

/** Effect of `event` on an operation in `status`. Pure and total. */
export function transitionOperation(
  status: OperationStatus,
  event: OperationEvent,
): OperationTransition {
  const cell: OperationStatus | "stay" | "refuse" = OPERATION_TABLE[status][event];
  if (cell === "stay") return { kind: "stay", state: status };
  if (cell === "refuse") return { kind: "refuse", state: status, event };
  return { kind: "move", from: status, to: cell };
}

export function isEnded(status: OperationStatus): boolean {
  return (ENDED_STATUSES as readonly OperationStatus[]).includes(status);
}

/** The settled state that a successful operation leaves behind. */
export const OPERATION_TARGET = {
  create: "running",
  pause: "paused",
  resume: "running",
  stop: "stopped",
  start: "running",
  delete: "deleted",
} as const satisfies Record<OperationKind, StableState>;

/** The transitional state while an operation executes. */
export const OPERATION_TRANSITIONAL = {
  create: "creating",
  pause: "pausing",
  resume: "resuming",
  stop: "stopping",
  start: "starting",
  delete: "deleting",
} as const satisfies Record<OperationKind, SandboxState>;
