/**
 * Applies what a host observed. Only an observation makes an operation succeed, and only an
 * observation moves a sandbox into a settled state.
 *
 * SO1  Order is (epoch, opSeq, revision); what is not newer than the last one applied changes
 *      nothing, however often it comes (S28).
 * SO2  An observation from before the sandbox's newest command, or of another command's outcome,
 *      completes nothing: that command's own observation follows.
 * SO3  Nothing runs that was not allowed to run. A host cannot report that an uncommitted operation
 *      made the sandbox run, nor that a failed operation reached its target.
 * SO4  Only the sandbox's host can move the sandbox. A copy on any other host is stale, and is
 *      discarded only when that is proven.
 * SO5  Numbers that the database has not given out are never applied: the database was restored
 *      from a backup, or the host lies. If applied, they would be ahead of every later command of
 *      the sandbox.
 * SO6  A report about a snapshot in the store is applied at any time (`planLateCopy`): a host whose
 *      sandbox was sent elsewhere, and came back, does not learn the epoch of that move.
 */
import {
  type Cause,
  compareObservations,
  type Observation,
  type ObservedState,
  type SandboxEventType,
} from "@torpor/contracts";
import {
  isTombstoned,
  OPERATION_TARGET,
  type OperationEvent,
  type ObservedEvent,
  type SandboxState,
  type StableState,
  transitionSandbox,
} from "@torpor/state-machine";
import { type Effects, type Plan, planMoves, planOperation } from "./plan.ts";
import type { Operation, Sandbox, SnapshotRow, View } from "./rows.ts";
import { columnsOnEnter } from "./columns-on-enter.ts";

/** Type of the event of a sandbox that its host has again. */
export const FOUND_ON_HOST: SandboxEventType = "found_on_host";

const FACT: Record<ObservedState, ObservedEvent> = {
  running: "is_running",
  paused: "is_paused",
  stopped: "is_stopped",
  deleted: "is_deleted",
  failed: "fail",
};

export type ObservationDecision =
  | { kind: "plan"; plan: Plan; to: SandboxState }
  /** From a host that is not the sandbox's (`judgeForeign`). `plan`: news of a snapshot. */
  | { kind: "foreign"; plan?: Plan | undefined }
  /** With an epoch or opSeq that the database has not given out. */
  | { kind: "ahead" }
  /** Older than what was applied. `plan`: news of a snapshot. */
  | { kind: "stale"; plan?: Plan | undefined }
  | { kind: "busy" | "refused" | "nothing_new" };

/** `view.named.snapshot` is the snapshot with the observation's manifest hash. */
export function planObservation(view: View, seen: Observation, now: Date): ObservationDecision {
  const { sandbox } = view;
  if (sandbox.hostId !== seen.hostId) {
    // The host holds nothing but what a failed fetch has left. The next fetch continues with it,
    // and the host removes it after a day.
    if (seen.state === "deleted" || seen.state === "failed") return { kind: "stale" };
    return { kind: "foreign", plan: planLateCopy(view, seen) };
  }
  if (isStale(sandbox, seen)) {
    const plan = seen.epoch < sandbox.epoch ? planLateCopy(view, seen) : undefined;
    return { kind: "stale", plan };
  }
  if (seen.epoch > sandbox.epoch || seen.opSeq > sandbox.opSeq) return { kind: "ahead" };
  if (seen.busyWith !== undefined) return { kind: "busy" };
  return planCompleted(view, seen, now);
}

function isStale(sandbox: Sandbox, seen: Observation): boolean {
  if (seen.epoch < sandbox.epoch || seen.opSeq < sandbox.opSeq) return true;
  const { appliedEpoch, appliedOpSeq, appliedRevision } = sandbox;
  const applied = { epoch: appliedEpoch, opSeq: appliedOpSeq, revision: appliedRevision };
  return compareObservations(seen, applied) <= 0;
}

function planCompleted(view: View, seen: Observation, now: Date): ObservationDecision {
  const { sandbox, executing } = view;
  if (executing !== undefined && seen.operation !== undefined && seen.operation.id !== executing.id)
    return { kind: "stale" };
  const back = executing === undefined ? undefined : backTo(executing, sandbox, seen);
  const transition = transitionSandbox(sandbox.state, back ?? factOf(executing, seen));
  if (transition.kind === "refuse") return { kind: "refused" };
  const news = transition.kind === "move" ? seen.state : newsIn(sandbox, seen, view.named.snapshot);
  if (news === undefined && executing === undefined) return { kind: "nothing_new" };
  const to = transition.kind === "move" ? transition.to : sandbox.state;
  const error = causeOf(seen);
  const ended = executing === undefined ? undefined : endOf(executing, to, seen, error);
  const move = {
    to,
    fact: news ?? seen.state,
    patch: {
      ...columnsOnEnter(sandbox, to, error, now),
      appliedEpoch: seen.epoch,
      appliedOpSeq: seen.opSeq,
      appliedRevision: seen.revision,
      condition: to === "running" ? (seen.condition ?? null) : null,
      ...(back === undefined ? {} : { hostId: executing?.originHostId ?? null }),
    },
    ...(ended === undefined ? {} : { operation: { id: ended.id, status: ended.patch.status } }),
    cause: error ?? seen.condition ?? seen.replicationFailed,
  };
  const plan = planMoves(sandbox, [move], {
    operations: ended === undefined ? [] : [ended],
    isObserved: true,
    effects: back === undefined ? effectsOf(sandbox, to, seen) : {},
  });
  return { kind: "plan", plan, to };
}

const STOOD: Partial<Record<StableState, ObservedEvent>> = {
  paused: "is_paused",
  stopped: "is_stopped",
};

/**
 * Fact that returns a sandbox to rest after an uncommitted operation: snapshot and disk are
 * untouched where they were, on a host or only in the store. After a move, the state that the new
 * host reports does not count. That the sandbox runs counts from no host: the VM may be one of an
 * earlier run. Undefined: the observed state counts.
 */
function backTo(
  executing: Operation,
  sandbox: Sandbox,
  seen: Observation,
): ObservedEvent | undefined {
  if (executing.committedAt !== null) return undefined;
  const hasMoved = executing.originHostId !== executing.hostId;
  return hasMoved || seen.state === "running" ? STOOD[sandbox.settledState] : undefined;
}

function factOf(executing: Operation | undefined, seen: Observation): ObservedEvent {
  if (executing?.kind === "create" && seen.state !== "running") return "fail";
  return FACT[seen.state];
}

/**
 * Type of the event when the state stays but something else is new: the VMM does not reply any more
 * or replies again, the snapshot has reached the store or will not, or the disk of a stopped
 * sandbox has a new name, the only one by which it can be fetched. Undefined: nothing is new.
 */
function newsIn(
  sandbox: Sandbox,
  seen: Observation,
  known: SnapshotRow | undefined,
): SandboxEventType | undefined {
  const had = sandbox.condition?.code;
  if (seen.condition?.code !== had) {
    if (seen.condition !== undefined) return seen.condition.code;
    return had === "host_lost_sandbox" ? FOUND_ON_HOST : "vmm_responsive";
  }
  const held = seen.snapshot;
  const isStored = held !== undefined && held.storeKey !== null;
  if (held !== undefined && known === undefined && seen.state === "stopped")
    return isStored ? "snapshot_stored" : "disk_renamed";
  if (isStored && known?.storeKey === null) return "snapshot_stored";
  const isGivenUp = seen.replicationFailed !== undefined && (known?.storeError ?? null) === null;
  return isGivenUp ? "snapshot_not_stored" : undefined;
}

function endOf(
  executing: Operation,
  to: SandboxState,
  seen: Observation,
  error: Cause | undefined,
) {
  const { id, kind } = executing;
  const outcome = seen.operation?.outcome ?? "succeeded";
  const reached = to === OPERATION_TARGET[kind] && outcome === "succeeded";
  const event: OperationEvent = reached ? "succeed" : outcome === "cancelled" ? "cancel" : "fail";
  const reason = error ?? {
    code: "OPERATION_FAILED",
    message: `The ${kind} ended with the sandbox ${to}.`,
  };
  return planOperation(id, event, {
    ...(reached ? {} : { error: reason }),
    ...(seen.timingsMs === undefined ? {} : { timingsMs: seen.timingsMs }),
  });
}

function effectsOf(sandbox: Sandbox, to: SandboxState, seen: Observation): Effects {
  const held = seen.snapshot !== undefined && seen.state === to ? seen.snapshot : undefined;
  const rests = to === "paused" || to === "stopped";
  // A snapshot is consumed by the run that follows it, and worthless once the disk has changed. The
  // same holds for the copy of a stopped sandbox's disk.
  const ran = to === "running" && (sandbox.state === "resuming" || sandbox.state === "starting");
  return {
    ...(held !== undefined && to === "running" && held.storeKey !== null
      ? { notesSnapshot: { ...named(held), storeKey: held.storeKey, storeError: null } }
      : {}),
    ...(held !== undefined && rests ? { recordsSnapshot: recorded(held, to, seen) } : {}),
    ...(ran || (to === "stopped" && held === undefined) || to === "deleted"
      ? { dropsSnapshots: true }
      : {}),
    ...(ran ? { forgetsRestore: true } : {}),
    ...(rests || to === "deleted" || to === "error"
      ? { endsRun: { epoch: seen.epoch, cause: seen.cause?.code ?? seen.operation?.outcome ?? to } }
      : {}),
  };
}

type Held = NonNullable<Observation["snapshot"]>;

const named = ({ generation, manifestSha256 }: Held) => ({ generation, manifestSha256 });

function recorded(held: Held, to: SandboxState, seen: Observation) {
  const { storeKey, sizeBytes, guestSynced, driverFingerprint } = held;
  return {
    ...named(held),
    epoch: seen.epoch,
    hostId: seen.hostId,
    hasMemory: to === "paused",
    storeKey,
    storeError: seen.replicationFailed ?? null,
    sizeBytes,
    guestSynced,
    driverFingerprint,
  };
}

function causeOf(seen: Observation): Cause | undefined {
  return seen.operation?.error ?? seen.cause;
}

/**
 * Plan from a report about a snapshot at an earlier epoch: the sandbox was sent elsewhere from the
 * host and is on its way, or came back without the host's knowledge. The report moves no sandbox.
 * But whether the store has a snapshot does not depend on who reports it, or when, and the manifest
 * identifies the snapshot. Undefined: the report is no news.
 */
function planLateCopy({ sandbox, named: { snapshot: known } }: View, seen: Observation) {
  if (seen.snapshot === undefined || known === undefined || isTombstoned(sandbox.state))
    return undefined;
  if (known.storeKey !== null) return undefined;
  const { generation, manifestSha256 } = known;
  const { storeKey } = seen.snapshot;
  const { replicationFailed: storeError } = seen;
  const note = (
    fact: SandboxEventType,
    noted: { storeKey: string | null; storeError: Cause | null },
  ) =>
    planMoves(sandbox, [{ to: sandbox.state, fact, cause: storeError }], {
      effects: { notesSnapshot: { generation, manifestSha256, ...noted } },
    });
  if (storeKey !== null) return note("snapshot_stored", { storeKey, storeError: null });
  // If another host has a copy as well, that host may still store it.
  if (storeError === undefined || known.storeError !== null || sandbox.hostId !== seen.hostId)
    return undefined;
  return note("snapshot_not_stored", { storeKey: null, storeError });
}
