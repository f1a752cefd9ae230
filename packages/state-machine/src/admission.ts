/**
 * Decides whether a request is accepted. The request is compared with the end of the sandbox's
 * queue: the waiting operation, else the executing one, else the settled state.
 *
 * A1  A request for what the end of the queue already reaches joins; it is never a conflict
 *     (concurrent identical intents must join: S31).
 * A2  At most one operation waits; a further, different one is refused, and the refusal names the
 *     waiting one.
 * A3  Delete is always accepted, once; it replaces the waiting operation.
 * A4  A resume that is requested while an uncommitted pause executes cancels that pause (S21).
 * A5  A waiting operation that yields (requested by a drain, not by a user) is in no request's way.
 *     A request that it would block or make a conflict is decided as if the operation were not
 *     there, and replaces the operation.
 * A6  No request joins an operation that is to back out, because its end is open. A request for the
 *     same target is accepted, and waits.
 */
import { OPERATION_TARGET, type OperationKind } from "./operation.ts";
import {
  allowedRequests,
  isTombstoned,
  SANDBOX_TABLE,
  type SandboxRequest,
  type SandboxState,
  type StableState,
} from "./sandbox.ts";

export interface QueuedOperation<Id extends string> {
  id: Id;
  kind: OperationKind;
}

export interface ExecutingOperation<Id extends string> extends QueuedOperation<Id> {
  committed: boolean;
  /** The operation is to back out. */
  cancelRequested?: boolean;
}

export interface WaitingOperation<Id extends string> extends QueuedOperation<Id> {
  /** The operation gives way to any other request. */
  yields?: boolean;
}

/** `Id`: the ids of operations, which are only handed on here. */
export interface SandboxQueue<Id extends string = string> {
  /** The state as stored, transitional ones included. */
  state: SandboxState;
  /** The last settled state. */
  settled: StableState;
  executing?: ExecutingOperation<Id> | undefined;
  waiting?: WaitingOperation<Id> | undefined;
}

export type Admission<Id extends string> =
  /**
   * Already reached, nothing in flight: reply with the state. `supersedes`, here and below: this
   * waiting operation ends first.
   */
  | { kind: "satisfied"; state: StableState; supersedes?: Id }
  /** An operation with the same target is already under way: wait for it. */
  | { kind: "join"; operationId: Id; supersedes?: Id }
  /** A new operation. `cancels`: the executing operation that is to back out. */
  | { kind: "accept"; supersedes?: Id; cancels?: Id }
  /** Not legal from the state that the queue ends in. */
  | { kind: "conflict"; current: StableState; allowed: SandboxRequest[] }
  /** Legal, but another operation already waits. */
  | { kind: "blocked"; current: StableState; by: QueuedOperation<Id> }
  | { kind: "gone" };

export function admit<Id extends string>(
  queue: SandboxQueue<Id>,
  request: SandboxRequest,
): Admission<Id> {
  if (isTombstoned(queue.state)) return { kind: "gone" };
  if (request === "delete") return admitDelete(queue);
  const admission = admitBehind(queue, request);
  const { waiting } = queue;
  if (waiting?.yields !== true || (admission.kind !== "blocked" && admission.kind !== "conflict"))
    return admission;
  const without = admitBehind({ ...queue, waiting: undefined }, request);
  return without.kind === "accept" || without.kind === "satisfied" || without.kind === "join"
    ? { ...without, supersedes: waiting.id }
    : without;
}

function admitBehind<Id extends string>(
  queue: SandboxQueue<Id>,
  request: Exclude<SandboxRequest, "delete">,
): Admission<Id> {
  const last = queue.waiting ?? queue.executing;
  if (last?.kind === "delete") return { kind: "gone" };
  const end: StableState = last === undefined ? queue.settled : OPERATION_TARGET[last.kind];
  const cell = SANDBOX_TABLE[end][request];
  if (cell === "refuse") return { kind: "conflict", current: end, allowed: allowedRequests(end) };
  const { executing, waiting } = queue;
  if (cell === "stay") {
    if (last === undefined) return { kind: "satisfied", state: end };
    return waiting === undefined && executing?.cancelRequested === true
      ? { kind: "accept" }
      : { kind: "join", operationId: last.id };
  }
  if (waiting !== undefined)
    return { kind: "blocked", current: end, by: { id: waiting.id, kind: waiting.kind } };
  if (request === "resume" && executing?.kind === "pause" && !executing.committed)
    return { kind: "accept", cancels: executing.id };
  return { kind: "accept" };
}

function admitDelete<Id extends string>(queue: SandboxQueue<Id>): Admission<Id> {
  if (queue.waiting?.kind === "delete") return { kind: "join", operationId: queue.waiting.id };
  const cancels = queue.executing?.id;
  const supersedes = queue.waiting?.id;
  return {
    kind: "accept",
    ...(supersedes === undefined ? {} : { supersedes }),
    ...(cancels === undefined ? {} : { cancels }),
  };
}
