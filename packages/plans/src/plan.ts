/**
 * The writes of a decision, as data. `applyPlans` (packages/db) applies a plan as a whole or not at
 * all.
 *
 * -   Only a plan changes a sandbox's row, writes its events, or changes what hosts have in use.
 *     Exceptions, on which no state depends: `last_active_at`; in a tombstone `updated_at`, the
 *     time of the last command to its host; and the form in which environment variables are stored.
 * M2  A plan is applied only to the sandbox that it was made for: its generation, and the statuses
 *     of its operations, are as they were read. Otherwise the plan has lost a race: read and plan
 *     again.
 * M3  What a sandbox holds of hosts is derived from its row (host_id, origin_host_id, holds_memory,
 *     state), so that what is used of a host is always the sum over the rows.
 * M4  Sequence numbers of events have no gaps: the row that is compared and set hands them out.
 * M5  During a move from one host to another, the disk is reserved on both: the sandbox can always
 *     go back. Every plan that reaches a settled state clears `origin_host_id`.
 */
import {
  type Cause,
  type HostId,
  isRefusedForNow,
  type OperationId,
  type SandboxEventMessage,
  type SandboxEventType,
  type SandboxId,
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

/** Columns that a plan sets, named as in the schema of packages/db, which has more columns. */
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
  /** Marks an event. Applying the plan puts the time into the payload, as `occurredAt`. */
  isEvent: boolean;
  /**
   * Time from the application of the plan to the `deadlineAt` of the command. Set for a command of
   * the operation that the plan queues.
   */
  deadlineMs?: number;
}

interface PlannedEvent {
  seq: number;
  fact: SandboxEventType;
  /** Null: the event is the creation. */
  fromState: SandboxState | null;
  toState: SandboxState;
  generation: number;
  epoch: number;
  operationId: OperationId | null;
  cause: Cause | null;
}

type OperationPatch = Partial<
  Pick<Operation, "hostId" | "originHostId" | "startedAt"> & {
    epoch: number;
    opSeq: number;
    error: Cause;
    timingsMs: Record<string, number>;
    idempotencyKey: null;
  }
>;

/** Terms of an operation that may change while it waits: a user joins it, or a drain pins it. */
type OperationTerms = Pick<
  Operation,
  "onlyIfIdleForMs" | "pinnedHostId" | "maxBytesPerSecond" | "deadlineAt"
>;

export interface PlannedOperation {
  id: OperationId;
  /** Statuses of which the operation must have one. */
  from: OperationStatus[];
  /** The operation must not have passed its point of no return. */
  isUncommitted: boolean;
  /** Terms that the command is made from. They must be unchanged. Null: not compared. */
  terms: OperationTerms | null;
  /** The operation ends with this plan. */
  ends: boolean;
  patch: OperationPatch & { status: OperationStatus };
}

/**
 * The host as it was when it was chosen. When the plan is applied, the host must be unchanged and
 * have its lease.
 */
export interface PlacedHost {
  id: HostId;
  state: string;
  hasFence: boolean;
  registeredAt: Date;
}

/**
 * The host must be lost, must have been silent for this long past the end of its lease, and must
 * have a fence.
 */
interface LostHost {
  hostId: HostId;
  silentForMs: number;
}

/** No other sandbox of the organization with the same key may be on that host. */
export interface Apart {
  organizationId: number;
  key: string;
  hostId: HostId;
}

interface RecordedSnapshot {
  epoch: number;
  hostId: HostId;
  generation: number;
  hasMemory: boolean;
  storeKey: string | null;
  storeError: Cause | null;
  sizeBytes: number;
  manifestSha256: string;
  guestSynced: boolean;
  driverFingerprint: string;
}

/** Further changes to the rows of the sandbox. */
export interface Effects {
  beginsRun?: { epoch: number; hostId: HostId; onHostLoss: Sandbox["onHostLoss"] };
  endsRun?: { epoch: number; cause: string };
  /** Drops the pending restore. */
  forgetsRestore?: boolean;
  /** Drops the resume that is pending because a drain has paused the sandbox. */
  keepsPaused?: boolean;
  /** Records the snapshot, that the store has it, or why not; drops older snapshots. */
  recordsSnapshot?: RecordedSnapshot;
  /** Updates a snapshot that the database has, but does not know to be stored. */
  notesSnapshot?: {
    generation: number;
    manifestSha256: string;
    storeKey: string | null;
    storeError: Cause | null;
  };
  dropsSnapshots?: boolean;
  /** The sandbox returns to the snapshot of that generation. Newer snapshots are forgotten. */
  returnsTo?: number;
  /** From now on a restore is pending, because the run of that epoch was lost. */
  owesRestore?: number;
  /**
   * That restore is tried now. The next try comes after as long as the restore has been pending.
   */
  triesRestore?: number;
}

/** Columns that beginning writes into the row of an operation that does not wait. */
interface BegunOperation {
  hostId: HostId;
  originHostId: HostId | null;
  epoch: number;
  opSeq: number;
}

/** An operation to insert. Its deadline counts from the insertion. */
export interface OperationInQueue {
  id: OperationId;
  organizationId: number;
  kind: OperationKind;
  idempotencyKey: string | null;
  requestSha256: string | null;
  requestedBy: string;
  onlyIfIdleForMs: number | null;
  pinnedHostId: HostId | null;
  maxBytesPerSecond: number | null;
  deadlineMs: number;
  traceId: string | null;
  /** Set: the operation executes from the start. Null: the operation waits. */
  begins: BegunOperation | null;
}

/**
 * Changes to an open operation that a request joins: its bounds are lifted, because the requester
 * wants the same without them.
 */
export interface JoinedOperation {
  id: OperationId;
  liftsBounds: boolean;
  /**
   * The new owner: the first requester can no longer take the operation back. Null: the owner
   * stays.
   */
  takenOverBy: string | null;
}

export interface Plan {
  sandboxId: SandboxId;
  /** Generation as it was read; 0 for a sandbox that does not exist yet. */
  generation: number;
  /** Columns of the new row, beside those of `after`. Null: the sandbox exists. */
  creates: Record<string, unknown> | null;
  /** Columns after the plan. */
  after: SandboxPatch & {
    state: SandboxState;
    settledState: StableState;
    generation: number;
    lastSeq: number;
  };
  /** Removes the environment variables, which a tombstone does not need. */
  clearsEnvironment: boolean;
  events: PlannedEvent[];
  operations: PlannedOperation[];
  /** Capacity that the plan takes of hosts (positive) and gives back (negative). */
  claims: Claim[];
  /**
   * The plan records where the sandbox is, and requests nothing. What the sandbox comes to hold is
   * already on the host, and is counted however little capacity is left.
   */
  isObserved: boolean;
  placed: PlacedHost | null;
  apart: Apart | null;
  lost: LostHost | null;
  /** The restore that is pending since the run of that epoch was lost must be due for a try. */
  dueRestore: number | null;
  /**
   * The open operations by their ids, as they were read: status, requester and bounds. Null: only
   * `operations` is compared.
   */
  open: Record<string, (string | number | null)[]> | null;
  /** The organization must be one without quotas. */
  unlimitedOrganizationId: number | null;
  /** An operation to insert, which waits or executes from now on. */
  queues: OperationInQueue | null;
  /** An executing operation that must back out, unless it has committed. */
  cancels: OperationId | null;
  joins: JoinedOperation | null;
  effects: Effects;
  messages: PlannedMessage[];
}

/** The result of a plan. Only `applied` changes anything. */
export type Applied<Message, Queued> =
  | {
      kind: "applied";
      messages: Message[];
      at: Date;
      /** The operation that now waits for the sandbox; set only for an observation. */
      waitingOperationId: OperationId | null;
      /** The operation that the plan queued. */
      queued: Queued | undefined;
    }
  | { kind: "lost_race" }
  /** Another transaction has locked the sandbox, or one of its hosts. Nothing was compared. */
  | { kind: "locked" }
  /** The host has too little left, or takes no sandboxes any more. */
  | { kind: "no_capacity"; hostId: HostId }
  /**
   * The choice of a host no longer holds: the host, or the sandboxes on it, have changed. Or the
   * lost host is not lost any more.
   */
  | { kind: "overtaken" }
  /** The organization has quotas, which must be checked. */
  | { kind: "has_quotas" }
  /** An operation with the same idempotency key exists. */
  | { kind: "key_used" }
  /** Another sandbox has the edge address of the new one. */
  | { kind: "address_taken" };

/** A move of a sandbox, or an event that leaves it in its state. */
export interface Move {
  to: SandboxState;
  fact: SandboxEventType;
  patch?: SandboxPatch;
  operation?: { id: OperationId; status: string };
  cause?: Cause | undefined;
}

type Rest = Partial<Pick<Plan, "operations" | "isObserved" | "placed" | "apart" | "effects">> & {
  /** Commands, which follow the messages about events. */
  messages?: Omit<PlannedMessage, "isEvent" | "deadlineMs">[];
};

/** A plan that makes `moves`, one after the other, from the sandbox as it was read. */
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
  sandboxId: SandboxId,
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

/** The statuses that `event` moves an operation out of, and the one it moves to, from the table. */
export function movedBy(event: OperationEvent): { from: OperationStatus[]; to: OperationStatus } {
  const cells = Object.entries(OPERATION_TABLE).filter(
    ([, row]) => row[event] !== "stay" && row[event] !== "refuse",
  );
  const to = cells[0]?.[1][event];
  if (to === undefined || to === "stay" || to === "refuse")
    throw new Error(`no operation status is left by ${event}`);
  return { from: cells.map(([status]) => status as OperationStatus), to };
}

/**
 * An operation that is refused for now gives back the idempotency key of its request: nothing has
 * run, so the same request runs when it is repeated, as the response advises.
 */
const KEY_GIVEN_BACK = { idempotencyKey: null } as const;

/** Moves the operation by `event`. If its status does not permit that, the plan is not applied. */
export function planOperation(
  id: OperationId,
  event: OperationEvent,
  patch: OperationPatch = {},
  isUncommitted = false,
): PlannedOperation {
  const { from, to } = movedBy(event);
  const ends = (ENDED_STATUSES as readonly OperationStatus[]).includes(to);
  const key = patch.error !== undefined && isRefusedForNow(patch.error.code) ? KEY_GIVEN_BACK : {};
  return { id, from, isUncommitted, terms: null, ends, patch: { ...patch, ...key, status: to } };
}
