/**
 * Applies what a host observed: the only way in which an operation succeeds, and the only way into a settled state.
 *
 * SO1  Order is (epoch, opSeq, revision); what is not newer than the last one applied changes nothing, however often it comes (S28).
 * SO2  An observation made before the sandbox's newest command, or of the outcome of another one, settles nothing: that command's own observation follows.
 * SO3  Nothing runs that was not allowed to: of an operation that has not committed no host can say that it brought the sandbox to run, nor of one that failed that it got what it was for.
 * SO4  A host that is not the sandbox's host cannot move it; what it holds is stale, and is discarded only when that is proven (settle-foreign.ts).
 * SO5  Numbers that nobody gave out are never applied: the database was restored from a backup, or the
 *      host lies. Applied, they would be ahead of every command that the sandbox will ever get.
 * SO6  What it says of a snapshot in the store is taken at any time (note-late-copy.ts): a host whose sandbox was sent elsewhere, and came back, is not told of the epoch of that.
 */
import { type Cause, compareObservations, type Observation, type ObservedState, type SnapshotFacts } from "@torpor/contracts";
import {
  dropSnapshots,
  findOpenOperations,
  findSandboxRow,
  findSnapshotByManifest,
  forgetRestore,
  inTransaction,
  markIncarnationEnded,
  moveOperation,
  moveSandbox,
  type MoveResult,
  noteSnapshotStored,
  type OperationRow,
  recordSnapshot,
  type SandboxRow,
  type Tx,
} from "@torpor/db";
import {
  OPERATION_TARGET,
  type OperationEvent,
  type SandboxFact,
  type SandboxState,
  type SettledState,
  transitionSandbox,
} from "@torpor/state-machine";
import type { Deps } from "./deps.ts";
import { FOUND_ON_HOST } from "./inventory/reconcile-inventory.ts";
import { endQuarantine, reportStray } from "./inventory/strays.ts";
import { noteLateCopy } from "./note-late-copy.ts";
import { settleForeign } from "./settle-foreign.ts";
import { settledPatch } from "./settled-patch.ts";

const MAX_ATTEMPTS = 10;

export type Settled = "applied" | "stale" | "busy" | "foreign" | "ahead" | "unknown_sandbox" | "refused" | "nothing_new";

const FACT: Record<ObservedState, SandboxFact> = {
  running: "is_running",
  paused: "is_paused",
  stopped: "is_stopped",
  deleted: "is_deleted",
  failed: "fail",
};

/** Settles one observation; `onSettled` is told of a sandbox whose queue may go on. */
export async function settleObservation(deps: Deps, seen: Observation, onSettled: (sandboxId: string) => Promise<void>): Promise<Settled> {
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
    const sandbox = await findSandboxRow(deps.db, seen.sandboxId);
    if (sandbox === undefined) return await reportUnknown(deps, seen);
    if (sandbox.hostId !== seen.hostId) return await settleForeign(deps, sandbox, seen);
    if (seen.quarantined === true && seen.epoch >= sandbox.epoch) await endQuarantine(deps, seen);
    if (isStale(sandbox, seen)) return seen.epoch < sandbox.epoch && (await noteLateCopy(deps, sandbox, seen)) ? "applied" : "stale";
    if (isAhead(sandbox, seen)) return await reportAhead(deps, sandbox, seen);
    if (seen.busyWith !== undefined) return "busy";
    const settled = await settleOnce(deps, sandbox, seen);
    if (settled === "lost_race") continue;
    if (settled === "applied") await onSettled(sandbox.id);
    return settled;
  }
  throw new Error(`the observation of sandbox ${seen.sandboxId} could not be settled: its row kept changing`);
}

function isStale(sandbox: SandboxRow, seen: Observation): boolean {
  if (seen.epoch < sandbox.epoch || seen.opSeq < sandbox.opSeq) return true;
  const applied = { epoch: sandbox.appliedEpoch, opSeq: sandbox.appliedOpSeq, revision: sandbox.appliedRevision };
  return compareObservations(seen, applied) <= 0;
}

/** SO5 */
function isAhead(sandbox: SandboxRow, seen: Observation): boolean {
  return seen.epoch > sandbox.epoch || seen.opSeq > sandbox.opSeq;
}

async function reportAhead(deps: Deps, sandbox: SandboxRow, seen: Observation): Promise<Settled> {
  const why =
    `The database has given out epoch ${sandbox.epoch} and command ${sandbox.opSeq} of sandbox ${sandbox.id}; ` +
    `its host speaks of ${seen.epoch} and ${seen.opSeq}. Was the database restored from a backup?`;
  await reportStray(deps, seen, { kind: "unknown", why, discardEpoch: seen.epoch + 1 });
  return "ahead";
}

async function reportUnknown(deps: Deps, seen: Observation): Promise<Settled> {
  const why = `The database knows no sandbox ${seen.sandboxId}.`;
  await reportStray(deps, seen, { kind: "unknown", why, discardEpoch: seen.epoch + 1 });
  return "unknown_sandbox";
}

async function settleOnce(deps: Deps, sandbox: SandboxRow, seen: Observation): Promise<Settled | "lost_race"> {
  const { executing } = await findOpenOperations(deps.db, sandbox.id);
  if (executing !== undefined && seen.operation !== undefined && seen.operation.id !== executing.id) return "stale";
  const back = executing === undefined ? undefined : backTo(executing, sandbox, seen);
  const fact = back ?? factOf(executing, seen);
  const transition = transitionSandbox(sandbox.state, fact);
  if (transition.kind === "refuse") {
    deps.log.error(
      { sandboxId: sandbox.id, hostId: seen.hostId, state: sandbox.state, observed: seen.state, cause: seen.cause },
      "observation refused",
    );
    return "refused";
  }
  const news = transition.kind === "move" ? seen.state : await newsIn(deps.db, sandbox, seen);
  if (news === undefined && executing === undefined) return "nothing_new";
  const to = transition.kind === "move" ? transition.to : sandbox.state;
  const error = causeOf(seen);
  const result = await inTransaction<MoveResult, MoveResult>(deps.db, async (tx, rollback) => {
    const ended = await endOperation(tx, executing, to, seen, error);
    const move = await moveSandbox(tx, {
      sandbox,
      to,
      fact: news ?? seen.state,
      patch: {
        ...settledPatch(sandbox, to, error),
        appliedEpoch: seen.epoch,
        appliedOpSeq: seen.opSeq,
        appliedRevision: seen.revision,
        condition: to === "running" ? (seen.condition ?? null) : null,
        ...(back === undefined ? {} : { hostId: executing?.originHostId ?? null }),
      },
      ...(ended === undefined ? {} : { operation: { id: ended.id, status: ended.status } }),
      cause: error ?? seen.condition ?? seen.replicationFailed,
      isFact: true,
    });
    if (move.kind !== "moved") return rollback(move);
    // After the sandbox's own row, as in every transaction: two that lock a snapshot and its sandbox in turn would wait for each other.
    if (back === undefined) await recordFacts(tx, sandbox, to, seen);
    return move;
  });
  if (result.kind !== "moved") return "lost_race";
  deps.log.info(
    {
      sandboxId: sandbox.id,
      hostId: seen.hostId,
      from: sandbox.state,
      to,
      epoch: seen.epoch,
      opSeq: seen.opSeq,
      operation: seen.operation,
      cause: seen.cause,
    },
    "sandbox moved",
  );
  await deps.publishCommitted(result.outboxIds);
  return "applied";
}

const STOOD: Partial<Record<SettledState, SandboxFact>> = { paused: "is_paused", stopped: "is_stopped" };

/**
 * Where a sandbox goes that stood still, and whose operation came to nothing: uncommitted, so snapshot or disk are untouched where they were, on a host or in the store alone. After a move the
 * new host's word for its state does not count, and of no host that it runs: the host may hold a VM of a run before.
 */
function backTo(executing: OperationRow, sandbox: SandboxRow, seen: Observation): SandboxFact | undefined {
  if (executing.committedAt !== null) return undefined;
  return executing.originHostId !== executing.hostId || seen.state === "running" ? STOOD[sandbox.settledState] : undefined;
}

function factOf(executing: OperationRow | undefined, seen: Observation): SandboxFact {
  if (executing?.kind === "create" && seen.state !== "running") return "fail";
  return FACT[seen.state];
}

/**
 * Nothing moves, but the VMM does not answer any more, or does again, or the snapshot has reached the store since, or will not, or a stopped sandbox's disk has got another name, by which
 * alone it can be asked for. Returns the event's name.
 */
async function newsIn(db: Tx, sandbox: SandboxRow, seen: Observation): Promise<string | undefined> {
  if (seen.condition?.code !== sandbox.condition?.code)
    return seen.condition?.code ?? (sandbox.condition?.code === "host_lost_sandbox" ? FOUND_ON_HOST : "vmm_responsive");
  const held = seen.snapshot;
  const known = held === undefined ? undefined : await findSnapshotByManifest(db, seen.sandboxId, held.manifestSha256);
  const isStored = held !== undefined && held.storeKey !== null;
  if (held !== undefined && known === undefined && seen.state === "stopped") return isStored ? "snapshot_stored" : "disk_renamed";
  if (isStored && known?.storeKey === null) return "snapshot_stored";
  return seen.replicationFailed !== undefined && (known?.storeError ?? null) === null ? "snapshot_not_stored" : undefined;
}

async function endOperation(
  tx: Tx,
  executing: OperationRow | undefined,
  to: SandboxState,
  seen: Observation,
  error: Cause | undefined,
): Promise<OperationRow | undefined> {
  if (executing === undefined) return undefined;
  const outcome = seen.operation?.outcome ?? "succeeded";
  const reached = to === OPERATION_TARGET[executing.kind] && outcome === "succeeded";
  const event: OperationEvent = reached ? "succeed" : outcome === "cancelled" ? "cancel" : "fail";
  const reason = error ?? { code: "OPERATION_FAILED", message: `The ${executing.kind} ended with the sandbox ${to}.` };
  return await moveOperation(tx, executing.id, event, {
    ...(reached ? {} : { error: reason }),
    ...(seen.timingsMs === undefined ? {} : { timingsMs: seen.timingsMs }),
  });
}

async function recordFacts(tx: Tx, sandbox: SandboxRow, to: SandboxState, seen: Observation): Promise<void> {
  const held = seen.snapshot !== undefined && seen.state === to ? seen.snapshot : undefined;
  if (held !== undefined && to === "running") await noteStored(tx, sandbox.id, held);
  if (held !== undefined && (to === "paused" || to === "stopped")) {
    const { generation, storeKey, sizeBytes, manifestSha256, guestSynced, driverFingerprint } = held;
    await recordSnapshot(tx, {
      sandboxId: sandbox.id,
      epoch: seen.epoch,
      hostId: seen.hostId,
      generation,
      hasMemory: to === "paused",
      storeKey,
      storeError: seen.replicationFailed ?? null,
      sizeBytes,
      manifestSha256,
      guestSynced,
      driverFingerprint,
    });
  }
  // A snapshot is consumed by the run that follows it, and worthless once the disk moved on. The same holds for the copy of a stopped sandbox's disk.
  const ran = to === "running" && (sandbox.state === "resuming" || sandbox.state === "starting");
  if (ran || (to === "stopped" && held === undefined) || to === "deleted") await dropSnapshots(tx, sandbox.id);
  if (ran) await forgetRestore(tx, sandbox.id);
  if (to === "paused" || to === "stopped" || to === "deleted" || to === "error") {
    await markIncarnationEnded(tx, sandbox.id, seen.epoch, seen.cause?.code ?? seen.operation?.outcome ?? to);
  }
}

async function noteStored(tx: Tx, sandboxId: string, { generation, manifestSha256, storeKey }: SnapshotFacts): Promise<void> {
  if (storeKey !== null) await noteSnapshotStored(tx, { sandboxId, generation, manifestSha256, storeKey });
}

function causeOf(seen: Observation): Cause | undefined {
  return seen.operation?.error ?? seen.cause;
}
