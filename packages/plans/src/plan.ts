/**
 * What a decision writes: data, and applied as a whole or not at all (`applyPlans`, packages/db).
 *
 * -   Nothing else changes a sandbox's row (but for clocks that no state depends on:
 *     `last_active_at`, and of a tombstone `updated_at`, when its host was last told; and the form
 *     in which environment variables are kept), writes its events, or changes what hosts have in
 *     use.
 * M2  A plan is applied only to the sandbox that it was made for: its generation, and the statuses
 *     of its operations, are as they were read. Else it has lost a race: read, and plan again.
 * M3  What a sandbox holds of hosts is derived from its row (host_id, origin_host_id, holds_memory,
 *     state), so that what is used of a host is always the sum over the rows.
 * M4  Sequence numbers of events have no gaps: the row that is compared and set hands them out.
 * M5  While it is brought from one host to another its disk is reserved on both: it can always go
 *     back. `origin_host_id` ends with any settled state, whoever moved it there.
 */
import {
  type Cause,
  type SandboxEventMessage,
  type SandboxEventType,
  subjects,
} from "@torpor/contracts";
import {
  isStable,
  isTombstoned,
  OPERATION_TABLE,
  type OperationEvent,
  type OperationKind,
  type OperationStatus,
  ENDED_STATUSES,
  type SandboxState,
  type StableState,
} from "@torpor/state-machine";
import { type Claim, claimsBetween, type Held } from "./holdings.ts";
import type { Operation, Sandbox } from "./rows.ts";

/** By the names of the columns in the schema of packages/db, which has more of them than these. */
export type SandboxPatch = Partial<
  Pick<
    Sandbox,
    | "epoch"
    | "opSeq"
    | "appliedEpoch"
    | "appliedOpSeq"
    | "appliedRevision"
    | "hostId"
    | "originHostId"
    | "holdsMemory"
    | "expiresAt"
    | "timeoutLeftMs"
    | "startedAt"
    | "endedAt"
    | "lastActiveAt"
    | "error"
    | "condition"
  >
>;

/** A message that goes out if, and only if, the plan is applied. */
interface PlannedMessage {
  subject: string;
  payload: unknown;
  traceId: string | null;
  /** An event: the moment at which the plan is applied is put into it, as `occurredAt`. */
  isEvent: boolean;
  /**
   * A command of the operation that the plan queues: so long after that moment is its `deadlineAt`.
   */
  deadlineMs?: number;
}

interface PlannedEvent {
  seq: number;
  fact: SandboxEventType;
  /** Null: it is made. */
  fromState: SandboxState | null;
  toState: SandboxState;
  generation: number;
  epoch: number;
  operationId: string | null;
  cause: Cause | null;
}

type OperationPatch = Partial<
  Pick<Operation, "hostId" | "originHostId" | "startedAt"> & {
    epoch: number;
    opSeq: number;
    error: Cause;
    timingsMs: Record<string, number>;
  }
>;

/** What may change of an operation while it waits: a user joins it, or a drain pins it. */
type OperationTerms = Pick<
  Operation,
  "onlyIfIdleForMs" | "pinnedHostId" | "maxBytesPerSecond" | "deadlineAt"
>;

export interface PlannedOperation {
  id: string;
  /** Statuses of which it has to have one. */
  from: OperationStatus[];
  /** It must not have passed its point of no return. */
  isUncommitted: boolean;
  /** What its command is made of: it has to be so still. Null: it does not matter. */
  terms: OperationTerms | null;
  /** It ends now. */
  ends: boolean;
  patch: OperationPatch & { status: OperationStatus };
}

/** The host as it was when it was chosen; it has to be so still, with its lease. */
export interface PlacedHost {
  id: string;
  state: string;
  hasFence: boolean;
  registeredAt: Date;
}

/** The host has to be lost, and to have been silent for so long past its lease, with a fence. */
interface LostHost {
  hostId: string;
  silentForMs: number;
}

/** No other sandbox of the organization with the same key may be on that host. */
export interface Apart {
  organizationId: number;
  key: string;
  hostId: string;
}

interface RecordedSnapshot {
  epoch: number;
  hostId: string;
  generation: number;
  hasMemory: boolean;
  storeKey: string | null;
  storeError: Cause | null;
  sizeBytes: number;
  manifestSha256: string;
  guestSynced: boolean;
  driverFingerprint: string;
}

/** What else becomes of the rows of the sandbox. */
export interface Effects {
  beginsRun?: { epoch: number; hostId: string; onHostLoss: Sandbox["onHostLoss"] };
  endsRun?: { epoch: number; cause: string };
  /** It is to be restored no more. */
  forgetsRestore?: boolean;
  /** A drain that has paused it owes it no resume any more. */
  keepsPaused?: boolean;
  /** Recorded, or that it has reached the store, or why it has not; older ones are dropped. */
  recordsSnapshot?: RecordedSnapshot;
  /** Of one that is in the database already, and was not known to be stored. */
  notesSnapshot?: {
    generation: number;
    manifestSha256: string;
    storeKey: string | null;
    storeError: Cause | null;
  };
  dropsSnapshots?: boolean;
  /** The snapshot of that generation is the sandbox's again, and newer ones are forgotten. */
  returnsTo?: number;
  /** From now on it is to be restored, since its run of that epoch was lost. */
  owesRestore?: number;
  /** That restore is tried now; the next try is due after as long as it has been owed. */
  triesRestore?: number;
}

/** Of an operation that does not wait: what beginning it writes into its row. */
interface BegunOperation {
  hostId: string;
  originHostId: string | null;
  epoch: number;
  opSeq: number;
}

/** An operation to be inserted; its deadline counts from when it is. */
export interface OperationInQueue {
  id: string;
  organizationId: number;
  kind: OperationKind;
  idempotencyKey: string | null;
  requestSha256: string | null;
  requestedBy: string;
  onlyIfIdleForMs: number | null;
  pinnedHostId: string | null;
  maxBytesPerSecond: number | null;
  deadlineMs: number;
  traceId: string | null;
  /** It executes from the start; null: it waits. */
  begins: BegunOperation | null;
}

/** Bounds of a waiting operation that are lifted, because somebody wants the same in any case. */
export interface JoinedOperation {
  id: string;
  liftsBounds: boolean;
  /**
   * It is theirs from now on, and whoever asked for it first takes it back no more; null: it stays.
   */
  takenOverBy: string | null;
}

export interface Plan {
  sandboxId: string;
  /** As read; 0: there is none yet. */
  generation: number;
  /** The columns that it is made with, beside those of `after`; null: it is there. */
  creates: Record<string, unknown> | null;
  /** After the plan. */
  after: SandboxPatch & {
    state: SandboxState;
    settledState: StableState;
    generation: number;
    lastSeq: number;
  };
  /** Nobody needs its environment variables any more. */
  clearsEnvironment: boolean;
  events: PlannedEvent[];
  operations: PlannedOperation[];
  /** What it takes of hosts (positive) and gives back (negative). */
  claims: Claim[];
  /**
   * It says where the sandbox is, and asks for nothing: what it comes to hold lies there already,
   * and is counted however much is left.
   */
  isObserved: boolean;
  placed: PlacedHost | null;
  apart: Apart | null;
  lost: LostHost | null;
  /** The restore that is owed since its run of that epoch has to be due. */
  dueRestore: number | null;
  /**
   * The open operations by their ids, as they were read: status, bounds, and who asked for them.
   * Null: they do not matter beyond `operations`.
   */
  open: Record<string, (string | number | null)[]> | null;
  /** The organization has to be one without quotas. */
  unlimitedOrganizationId: number | null;
  /** An operation that waits from now on, or executes. */
  queues: OperationInQueue | null;
  /** An executing one that is asked to back out, unless it has committed. */
  cancels: string | null;
  joins: JoinedOperation | null;
  effects: Effects;
  messages: PlannedMessage[];
}

/** What came of a plan. Of all but `applied` nothing stands. */
export type Applied<Message, Queued> =
  | {
      kind: "applied";
      messages: Message[];
      at: Date;
      /** What waits for the sandbox now; of a fact alone. */
      waitingOperationId: string | null;
      /** The operation that the plan queued. */
      queued: Queued | undefined;
    }
  | { kind: "lost_race" }
  /** Somebody else has the sandbox locked, or a host of it: not judged. */
  | { kind: "locked" }
  /** The host has not enough left, or takes nothing any more. */
  | { kind: "no_capacity"; hostId: string }
  /**
   * The choice of a host no longer holds: the host, or the sandboxes on it, have changed since. Or
   * it is lost no more.
   */
  | { kind: "overtaken" }
  /** Its organization has quotas: they are to be asked. */
  | { kind: "has_quotas" }
  /** There is an operation with the idempotency key of the one that it queues. */
  | { kind: "key_used" }
  /** Another sandbox has the edge address of the one that it makes. */
  | { kind: "address_taken" };

/** A move of a sandbox, or an event that leaves it in its state. */
export interface Move {
  to: SandboxState;
  fact: SandboxEventType;
  patch?: SandboxPatch;
  operation?: { id: string; status: string };
  cause?: Cause | undefined;
}

type Rest = Partial<Pick<Plan, "operations" | "isObserved" | "placed" | "apart" | "effects">> & {
  /** Beside the events: commands. */
  messages?: Omit<PlannedMessage, "isEvent" | "deadlineMs">[];
};

/** A plan for a sandbox as it was read: one move after the other. */
export function planMoves(sandbox: Held & Sandbox, moves: Move[], rest: Rest = {}): Plan {
  let row: Held & Sandbox = sandbox;
  let patch: SandboxPatch = {};
  const events: PlannedEvent[] = [];
  const messages: PlannedMessage[] = [];
  for (const move of moves) {
    const { to } = move;
    const changes = { ...move.patch, ...(isAtRestOrGone(to) ? { originHostId: null } : {}) };
    const before = row;
    patch = { ...patch, ...changes };
    row = {
      ...row,
      ...changes,
      state: to,
      settledState: isStable(to) ? to : row.settledState,
      generation: row.generation + 1,
      lastSeq: row.lastSeq + 1,
    };
    const event = eventOf(move, before, row);
    events.push(event);
    messages.push(announcement(row.id, event, move.operation?.status));
  }
  const { state, settledState, generation, lastSeq } = row;
  return {
    sandboxId: sandbox.id,
    generation: sandbox.generation,
    creates: null,
    after: { ...patch, state, settledState, generation, lastSeq },
    clearsEnvironment: isTombstoned(state),
    events,
    operations: rest.operations ?? [],
    claims: claimsBetween(sandbox, row),
    isObserved: rest.isObserved === true,
    placed: rest.placed ?? null,
    apart: rest.apart ?? null,
    lost: null,
    dueRestore: null,
    open: null,
    unlimitedOrganizationId: null,
    queues: null,
    cancels: null,
    joins: null,
    effects: rest.effects ?? {},
    messages: [
      ...messages,
      ...(rest.messages ?? []).map((message) => ({ ...message, isEvent: false })),
    ],
  };
}

const isAtRestOrGone = (state: SandboxState) => isStable(state) || isTombstoned(state);

function eventOf(move: Move, before: Sandbox, after: Sandbox): PlannedEvent {
  return {
    seq: after.lastSeq,
    fact: move.fact,
    fromState: before.state,
    toState: after.state,
    generation: after.generation,
    epoch: after.epoch,
    operationId: move.operation?.id ?? null,
    cause: move.cause ?? null,
  };
}

export function announcement(
  sandboxId: string,
  { seq, fact, fromState, toState, generation, epoch, operationId }: PlannedEvent,
  operationStatus: string | undefined,
): PlannedMessage {
  const payload: Omit<SandboxEventMessage, "occurredAt"> = {
    type: "sandbox_event",
    version: 1,
    sandboxId,
    seq,
    fact,
    from: fromState,
    to: toState,
    generation,
    epoch,
    ...(operationId === null || operationStatus === undefined
      ? {}
      : { operationId, operationStatus }),
  };
  return { subject: subjects.sandboxEvent(sandboxId, fact), payload, traceId: null, isEvent: true };
}

/** The statuses in which `event` moves an operation to another, from the table. */
export function movedBy(event: OperationEvent): { from: OperationStatus[]; to: OperationStatus } {
  const cells = Object.entries(OPERATION_TABLE).filter(
    ([, row]) => row[event] !== "stay" && row[event] !== "refuse",
  );
  const to = cells[0]?.[1][event];
  if (to === undefined || to === "stay" || to === "refuse")
    throw new Error(`no operation status is left by ${event}`);
  return { from: cells.map(([status]) => status as OperationStatus), to };
}

/** `event` happens to the operation, or the whole plan is not applied. */
export function planOperation(
  id: string,
  event: OperationEvent,
  patch: OperationPatch = {},
  isUncommitted = false,
): PlannedOperation {
  const { from, to } = movedBy(event);
  const ends = (ENDED_STATUSES as readonly OperationStatus[]).includes(to);
  return { id, from, isUncommitted, terms: null, ends, patch: { ...patch, status: to } };
}
