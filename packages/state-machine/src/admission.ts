/**
 * May this request be accepted? Judged against the end of the sandbox's queue: the waiting operation, else the executing one, else the settled state.
 *
 * A1  What the end of the queue already reaches is joined, never a conflict (concurrent identical intents must join: S31).
 * A2  At most one operation waits; a further, different one is refused naming it.
 * A3  Delete is always accepted, once; it replaces the waiting operation.
 * A4  A resume asked for while an uncommitted pause executes cancels that pause (S21).
 */
import { OPERATION_TARGET, type OperationKind } from "./operation.ts";
import { allowedRequests, isTombstoned, SANDBOX_TABLE, type SandboxRequest, type SandboxState, type SettledState } from "./sandbox.ts";

export interface QueuedOperation {
  id: string;
  kind: OperationKind;
}

export interface SandboxQueue {
  /** The state as stored, transitional ones included. */
  state: SandboxState;
  /** The state last settled in. */
  settled: SettledState;
  executing?: (QueuedOperation & { committed: boolean }) | undefined;
  waiting?: QueuedOperation | undefined;
}

export type Admission =
  /** Already reached, nothing in flight: answer with the state. */
  | { kind: "satisfied"; state: SettledState }
  /** The same end is already on its way: wait for that operation. */
  | { kind: "join"; operationId: string }
  /** A new operation; `supersedes` (a waiting one) ends first, `cancels` (an executing one) is asked to back out. */
  | { kind: "accept"; supersedes?: string; cancels?: string }
  /** Not legal from the state that the queue ends in. */
  | { kind: "conflict"; current: SettledState; allowed: SandboxRequest[] }
  /** Legal, but another operation already waits. */
  | { kind: "blocked"; current: SettledState; by: QueuedOperation }
  | { kind: "gone" };

export function admit(queue: SandboxQueue, request: SandboxRequest): Admission {
  if (isTombstoned(queue.state)) return { kind: "gone" };
  if (request === "delete") return admitDelete(queue);
  const last = queue.waiting ?? queue.executing;
  if (last?.kind === "delete") return { kind: "gone" };
  const end: SettledState = last === undefined ? queue.settled : OPERATION_TARGET[last.kind];
  const cell = SANDBOX_TABLE[end][request];
  if (cell === "refuse") return { kind: "conflict", current: end, allowed: allowedRequests(end) };
  if (cell === "stay") return last === undefined ? { kind: "satisfied", state: end } : { kind: "join", operationId: last.id };
  if (queue.waiting !== undefined) return { kind: "blocked", current: end, by: queue.waiting };
  const executing = queue.executing;
  if (request === "resume" && executing?.kind === "pause" && !executing.committed) return { kind: "accept", cancels: executing.id };
  return { kind: "accept" };
}

function admitDelete(queue: SandboxQueue): Admission {
  if (queue.waiting?.kind === "delete") return { kind: "join", operationId: queue.waiting.id };
  const cancels = queue.executing?.id;
  const supersedes = queue.waiting?.id;
  return { kind: "accept", ...(supersedes === undefined ? {} : { supersedes }), ...(cancels === undefined ? {} : { cancels }) };
}
