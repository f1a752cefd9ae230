/**
 * A request for a transition: compared with the end of the sandbox's queue, and queued where an
 * operation is needed.
 */
import { type HostId, type Intent, type OperationId, subjects } from "@torpor/contracts";
import {
  admit,
  type OperationKind,
  type SandboxQueue,
  type SandboxRequest,
  type StableState,
  transitionSandbox,
} from "@torpor/state-machine";
import { type Assignment, needsMemory, planAssignment } from "./begin.ts";
import type { Moment } from "./commands.ts";
import {
  type Effects,
  type JoinedOperation,
  type OperationInQueue,
  type PlacedHost,
  type Plan,
  planMoves,
  planOperation,
} from "./plan.ts";
import type { Operation, Sandbox, View } from "./rows.ts";

/**
 * Requester of the operations of a drain. When they wait, they yield to any other requester (A5 in
 * packages/state-machine/src/admission.ts).
 */
export const DRAINER = "system:drain";

export interface Requester {
  organizationId: number;
  /** `api-key:<id>` or `system:<reconciler>`. */
  requestedBy: string;
  idempotencyKey?: string | undefined;
  /** Digest of method, path and body; required with a key. */
  requestSha256?: string | undefined;
  traceId?: string | undefined;
  /** Time limit of the operation, from now. */
  deadlineMs: number;
  /** Condition of a pause: nothing has used the sandbox for this long. */
  onlyIfIdleForMs?: number | undefined;
  /** Condition of a resume: on this host or not at all. */
  pinnedHostId?: HostId | undefined;
  /** Limit for the transfers between hosts and the store that the operation causes. */
  maxBytesPerSecond?: number | undefined;
  /** The system saves or gives back what a user has: no quota applies. */
  exemptFromQuotas?: boolean | undefined;
}

export type RequestDecision =
  /** The state is reached. `plan`: a pending restore or resume is dropped. */
  | { kind: "satisfied"; state: StableState; plan?: Plan | undefined }
  /** An operation with the same target is under way. */
  | { kind: "joined"; operation: Operation; plan?: Plan | undefined }
  /** The plan queues a new operation. */
  | { kind: "queued"; plan: Plan; supersedes: boolean }
  | { kind: "conflict"; current: StableState; allowed: SandboxRequest[] }
  | { kind: "blocked"; current: StableState; by: { id: OperationId; kind: OperationKind } }
  | { kind: "not_found" };

/** Options for an operation that may begin at once, because nothing is before it. */
export interface BeginsAt {
  /** The host that holds the sandbox, if a resume or start goes there in any case. */
  home: PlacedHost | undefined;
}

/**
 * Pure. Callers check quotas and repeated requests. `beginsAt`: an operation that needs no choice
 * of a host begins at once (decision 42); undefined: the operation waits.
 */
export function planRequest(
  view: View,
  request: SandboxRequest,
  requester: Requester,
  moment: Moment,
  beginsAt?: BeginsAt,
): RequestDecision {
  const { sandbox, executing, waiting } = view;
  if (sandbox.organizationId !== requester.organizationId) return { kind: "not_found" };
  const admission = admit(queueOf(view), request);
  if (admission.kind === "gone") return { kind: "not_found" };
  if (admission.kind === "conflict" || admission.kind === "blocked") return admission;
  const effects = effectsOf(request, requester);
  const error = {
    code: "OPERATION_SUPERSEDED",
    message: `The operation was replaced by a later ${request} before it began.`,
  };
  const { supersedes } = admission;
  const operations =
    supersedes === undefined ? [] : [planOperation(supersedes, "supersede", { error })];
  const planWith = (given: Partial<Plan>) => ({
    ...planMoves(sandbox, [], { operations, effects }),
    open: openOf(view),
    ...given,
  });
  switch (admission.kind) {
    case "satisfied": {
      const isNeeded = operations.length > 0 || (view.isOwed === true && hasAny(effects));
      return {
        kind: "satisfied",
        state: admission.state,
        plan: isNeeded ? planWith({}) : undefined,
      };
    }
    case "join": {
      const operation = executing?.id === admission.operationId ? executing : waiting;
      if (operation?.id !== admission.operationId)
        throw new Error(`admission joins operation ${admission.operationId}, which is not open`);
      const joins = joinOf(operation, requester);
      const isNeeded =
        joins !== null || operations.length > 0 || (view.isOwed === true && hasAny(effects));
      return { kind: "joined", operation, plan: isNeeded ? planWith({ joins }) : undefined };
    }
    case "accept": {
      // Only a new operation makes a restore or resume pending from now on: then this plan has lost
      // a race.
      const given = view.isOwed === false ? {} : effects;
      const queues = queued(moment.newOperationId(), request, requester);
      const begun = beginsAt && planBegun(view, queues, beginsAt, moment);
      if (begun !== undefined) {
        const plan = { ...begun, effects: { ...begun.effects, ...given }, open: {} };
        return { kind: "queued", supersedes: false, plan };
      }
      return {
        kind: "queued",
        supersedes: supersedes !== undefined,
        plan: planWith({
          effects: given,
          queues,
          cancels: admission.cancels ?? null,
          messages: [intentOf(sandbox, queues)],
        }),
      };
    }
  }
}

/**
 * Plan that inserts the operation already begun: what `planBegin` and `planAssignment` would make
 * of it a moment later. Undefined: the operation must wait.
 */
function planBegun(
  view: View,
  queues: OperationInQueue,
  beginsAt: BeginsAt,
  moment: Moment,
): Plan | undefined {
  const { sandbox, executing, waiting } = view;
  if (executing !== undefined || waiting !== undefined) return undefined;
  if (queues.kind === "create" || transitionSandbox(sandbox.state, queues.kind).kind !== "move")
    return undefined;
  const assignment = assignmentOf(view, queues, beginsAt);
  if (assignment === undefined) return undefined;
  const operation = operationOf(sandbox, queues, moment);
  const plan = planAssignment(view, operation, assignment, moment);
  const { epoch = sandbox.epoch, opSeq = sandbox.opSeq } = plan.after;
  const { hostId } = assignment;
  const { hostId: originHostId } = sandbox;
  return {
    ...plan,
    operations: [],
    queues: { ...queues, begins: { hostId, originHostId, epoch, opSeq } },
    messages: plan.messages.map((message) =>
      message.isEvent ? message : { ...message, deadlineMs: queues.deadlineMs },
    ),
  };
}

/**
 * A pause, and a stop of a running sandbox, happens where the sandbox is. A resume or a start goes
 * to the host that holds the sandbox. Undefined: a host has to be chosen.
 */
function assignmentOf(
  { sandbox, snapshot }: View,
  { kind, pinnedHostId }: OperationInQueue,
  { home }: BeginsAt,
): Assignment | undefined {
  const { hostId, settledState } = sandbox;
  if (hostId === null) return undefined;
  if (kind === "pause" || (kind === "stop" && settledState === "running"))
    return { hostId, holdsMemory: needsMemory(sandbox, snapshot) };
  const isReturn = kind === "resume" || kind === "start";
  if (!isReturn || pinnedHostId !== null || home?.id !== hostId) return undefined;
  return { hostId, placed: home, holdsMemory: true };
}

/**
 * The operation as its row will be. Only `deadlineAt` differs: the database's clock sets it there.
 */
function operationOf(
  { id: sandboxId }: Sandbox,
  queues: OperationInQueue,
  { now }: Moment,
): Operation {
  const { begins: _, deadlineMs, ...rest } = queues;
  return {
    ...rest,
    sandboxId,
    status: "waiting",
    deadlineAt: new Date(now.getTime() + deadlineMs),
    committedAt: null,
    cancelRequestedAt: null,
    startedAt: null,
    hostId: null,
    originHostId: null,
    explain: null,
  };
}

const hasAny = (effects: Effects) => Object.keys(effects).length > 0;

/**
 * Effects of the request, which apply whether it is satisfied, joins or is new: from now on the
 * sandbox is at rest because its user wants that.
 */
function effectsOf(request: SandboxRequest, { onlyIfIdleForMs }: Requester): Effects {
  if (onlyIfIdleForMs !== undefined) return {};
  if (request === "pause") return { keepsPaused: true, forgetsRestore: true };
  return request === "stop" ? { forgetsRestore: true } : {};
}

function queueOf({ sandbox, executing, waiting }: View): SandboxQueue<OperationId> {
  return {
    state: sandbox.state,
    settled: sandbox.settledState,
    ...(executing === undefined
      ? {}
      : {
          executing: {
            id: executing.id,
            kind: executing.kind,
            committed: executing.committedAt !== null,
            cancelRequested: executing.cancelRequestedAt !== null,
          },
        }),
    ...(waiting === undefined
      ? {}
      : {
          waiting: {
            id: waiting.id,
            kind: waiting.kind,
            yields: waiting.requestedBy === DRAINER,
          },
        }),
  };
}

/** The queue as it was read: if the queue changes meanwhile, the plan is not applied. */
export const openOf = ({ executing, waiting }: View): NonNullable<Plan["open"]> =>
  Object.fromEntries(
    [executing, waiting]
      .filter((operation) => operation !== undefined)
      .map(({ id, status, requestedBy, ...bounds }) => {
        const { onlyIfIdleForMs, pinnedHostId, maxBytesPerSecond } = bounds;
        return [id, [status, requestedBy, onlyIfIdleForMs, pinnedHostId, maxBytesPerSecond]];
      }),
  );

function joinOf(
  { id, status, onlyIfIdleForMs, pinnedHostId, maxBytesPerSecond, requestedBy }: Operation,
  requester: Requester,
): JoinedOperation | null {
  if (requester.onlyIfIdleForMs !== undefined) return null;
  const isBound = [onlyIfIdleForMs, pinnedHostId, maxBytesPerSecond].some((it) => it !== null);
  const liftsBounds = status === "waiting" && isBound;
  const isTakenOver = requestedBy === DRAINER && requester.requestedBy !== DRAINER;
  const takenOverBy = isTakenOver ? requester.requestedBy : null;
  return liftsBounds || isTakenOver ? { id, liftsBounds, takenOverBy } : null;
}

export function queued(
  id: OperationId,
  kind: OperationKind,
  requester: Requester,
): OperationInQueue {
  return {
    id,
    organizationId: requester.organizationId,
    kind,
    idempotencyKey: requester.idempotencyKey ?? null,
    requestSha256: requester.requestSha256 ?? null,
    requestedBy: requester.requestedBy,
    onlyIfIdleForMs: requester.onlyIfIdleForMs ?? null,
    pinnedHostId: requester.pinnedHostId ?? null,
    maxBytesPerSecond: requester.maxBytesPerSecond ?? null,
    // Callers compute the value from what is left of a wait, so it may have a fraction.
    deadlineMs: Math.ceil(requester.deadlineMs),
    traceId: requester.traceId ?? null,
    begins: null,
  };
}

export function intentOf({ id: sandboxId }: Pick<Sandbox, "id">, queues: OperationInQueue) {
  const { id: operationId, kind, traceId } = queues;
  const payload: Intent = {
    type: "intent",
    version: 1,
    kind,
    operationId,
    sandboxId,
    ...(traceId === null ? {} : { traceId }),
  };
  return { subject: subjects.intent(kind), payload, traceId, isEvent: false };
}
