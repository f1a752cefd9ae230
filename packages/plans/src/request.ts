/**
 * A request for a transition: judged against the end of the sandbox's queue, and queued where one
 * is needed.
 */
import { type Intent, subjects } from "@torpor/contracts";
import {
  admit,
  type OperationKind,
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
 * Who asks for what a drain does with sandboxes. What waits for it gives way to what anybody else
 * asks for (A5 in packages/state-machine/src/admission.ts).
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
  /** Of a pause: only if nothing has used the sandbox for so long. */
  onlyIfIdleForMs?: number | undefined;
  /** Of a resume: on this host or not at all. */
  pinnedHostId?: string | undefined;
  /** Of the copying between hosts and the store that it brings about. */
  maxBytesPerSecond?: number | undefined;
  /** The system saves what a user has, or gives it back: no quota stands in its way. */
  exemptFromQuotas?: boolean | undefined;
}

export type RequestDecision =
  /** Already there. `plan`: what it is owed is given up. */
  | { kind: "satisfied"; state: StableState; plan?: Plan | undefined }
  /** The same is on its way. */
  | { kind: "joined"; operation: Operation; plan?: Plan | undefined }
  /** The plan queues the operation. */
  | { kind: "queued"; plan: Plan; supersedes: boolean }
  | { kind: "conflict"; current: StableState; allowed: SandboxRequest[] }
  | { kind: "blocked"; current: StableState; by: { id: string; kind: OperationKind } }
  | { kind: "not_found" };

/** Where an operation may begin that has nothing before it. */
export interface BeginsAt {
  /** The host that holds the sandbox, if that is where it is brought up again in any case. */
  home: PlacedHost | undefined;
}

/**
 * Pure. Whether quotas allow it, and whether it repeats another one, is not asked here. `beginsAt`:
 * what needs no choice of a host begins at once (decision 42); undefined: it waits to be begun.
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
      // Whatever owes it something from now on is an operation that was not there.
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
 * The operation begun by the plan that inserts it: what `planBegin` and `planAssignment` would make
 * of it a moment later.
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
 * A pause, and a stop of what runs, happens where the sandbox is; a resume or a start goes home.
 * Undefined: a host has to be chosen.
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

/** As it will be in its row, but for its deadline, which is by the clock of the database. */
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
 * Whether it joins, is there already or is new: from now on it stands still because somebody wants
 * it to.
 */
function effectsOf(request: SandboxRequest, { onlyIfIdleForMs }: Requester): Effects {
  if (onlyIfIdleForMs !== undefined) return {};
  if (request === "pause") return { keepsPaused: true, forgetsRestore: true };
  return request === "stop" ? { forgetsRestore: true } : {};
}

function queueOf({ sandbox, executing, waiting }: View): Parameters<typeof admit>[0] {
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

/** The queue as it was judged: whoever changes it meanwhile has it judged again. */
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

export function queued(id: string, kind: OperationKind, requester: Requester): OperationInQueue {
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
    // Callers take it from what is left of a wait.
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
