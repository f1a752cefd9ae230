/**
 * Applies what a drain decides about one sandbox, by the code paths of a user's request, as
 * `system:drain`.
 */
import type { HostId, OperationId, SandboxId } from "@torpor/contracts";
import {
  acceptWithin,
  type DrainAtWork,
  DRAINER,
  type DrainRow,
  type DrainSandboxPatch,
  type DrainSandboxRow,
  findHost,
  findOpenOperations,
  findOperation,
  findSandboxRow,
  findSnapshot,
  lastGrowthBeside,
  type OutboxRow,
  pinOperation,
  type SandboxRow,
  type StoredSnapshotRow,
  acquireSlot,
  type Tx,
  withDrainSandbox,
} from "@torpor/db";
import { requestToCreate } from "@torpor/placement";
import { beginOperation } from "../operations/begin-operation.ts";
import type { Deps } from "../deps.ts";
import { releaseFromHost, requestReplication } from "../hosts/release.ts";
import {
  type DrainStep,
  fail,
  nextStep,
  noRoomElsewhere,
  RESUME_WAIT_MS,
  retryAfter,
} from "./next-step.ts";

const PAUSE_DEADLINE_MS = 300_000;
const RESUME_DEADLINE_MS = 45_000;
/** A transfer that is slower than this is given up, and tried again. */
const SLOW_BYTES_PER_SECOND = 16 * 1024 ** 2;
/** Time after which a host that does not copy gets the command again. */
const REQUEST_AGAIN_MS = 30_000;

/** Work that is left once the decision is committed. */
type Next =
  | { kind: "nothing" | "take_place" }
  | { kind: "begin"; operationId: OperationId; messages: OutboxRow[] }
  /** `asks`: the host gets the command to copy, if it has no copy in the store. */
  | { kind: "copy" | "release"; asks: boolean };
type Decided = { patch: DrainSandboxPatch; next: Next };

const nothing = (patch: DrainSandboxPatch = {}): Decided => ({ patch, next: { kind: "nothing" } });

/** `full`: the sandbox waits for a slot, and none is free. */
export async function drainSandbox(
  deps: Deps,
  drain: DrainAtWork,
  sandboxId: SandboxId,
): Promise<"done" | "full"> {
  const next = await withDrainSandbox(
    deps.db,
    drain.id,
    sandboxId,
    async (tx, current, item, sandbox) => {
      const snapshot =
        sandbox.state === "paused" || sandbox.state === "stopped"
          ? await findSnapshot(tx, sandbox.id)
          : undefined;
      const step = await decide(
        deps,
        tx,
        { ...current, isHostLost: drain.isHostLost },
        item,
        sandbox,
        snapshot,
      );
      if (step.do !== "wait")
        deps.log.info({ hostId: drain.hostId, drainId: drain.id, sandboxId, ...step }, "drain");
      const decided = await apply(tx, step, current, item, sandbox, snapshot);
      return { ...decided, patch: { ...copiedBytes(item, snapshot), ...decided.patch } };
    },
  );
  switch (next?.kind) {
    case "begin":
      await deps.publishCommitted(next.messages);
      await beginOperation(deps, next.operationId);
      return "done";
    case "copy":
    case "release":
      await leave(deps, drain, sandboxId, next);
      return "done";
    case "take_place":
      return (await acquireSlot(deps.db, drain.id, sandboxId))
        ? await drainSandbox(deps, drain, sandboxId)
        : "full";
    default:
      return "done";
  }
}

async function decide(
  deps: Deps,
  tx: Tx,
  drain: DrainAtWork,
  item: DrainSandboxRow,
  sandbox: SandboxRow,
  snapshot: StoredSnapshotRow | undefined,
): Promise<DrainStep> {
  const { executing, waiting } = await findOpenOperations(tx, sandbox.id);
  const own = item.operationId === null ? undefined : await findOperation(tx, item.operationId);
  const isStored = snapshot !== undefined && snapshot.storeKey !== null;
  const storeError = snapshot?.storeError ?? null;
  const othersGrewAt =
    item.bytesDone === 0 ? await lastGrowthBeside(tx, drain.id, sandbox.id) : null;
  const facts = {
    drain,
    item,
    sandbox,
    executing,
    waiting,
    own,
    isStored,
    storeError,
    othersGrewAt,
    now: new Date(),
  };
  const step = nextStep(facts);
  if (step.do !== "take_place" || sandbox.state !== "running") return step;
  // Paused only when another host can resume it.
  const reason = await checkPlaceable(deps, tx, drain.hostId, sandbox);
  return reason === undefined ? step : fail(facts, noRoomElsewhere(reason));
}

/**
 * Bytes of a copy that the store has. A copy that ended before its host could report progress
 * counts the size of the snapshot. A copy from before the drain paused the sandbox counts nothing.
 */
function copiedBytes(
  item: DrainSandboxRow,
  snapshot: StoredSnapshotRow | undefined,
): DrainSandboxPatch {
  const isCounted = item.bytesDone === item.bytesTotal && !(item.isEstimate && item.owesResume);
  if (snapshot === undefined || snapshot.storeKey === null || isCounted) return {};
  const bytes = item.isEstimate ? snapshot.sizeBytes : item.bytesTotal;
  return { bytesDone: bytes, bytesTotal: bytes, isEstimate: false };
}

/**
 * Reason why no host could resume the sandbox, by labels, anti-affinity and what its snapshot will
 * need.
 */
async function checkPlaceable(
  deps: Deps,
  tx: Tx,
  hostId: HostId,
  sandbox: SandboxRow,
): Promise<string | undefined> {
  const driverFingerprint = (await findHost(tx, hostId))?.driverFingerprint;
  return await deps.placer.checkPlaceable({
    ...(await requestToCreate(tx, sandbox, sandbox.id)),
    driverFingerprint,
  });
}

async function apply(
  tx: Tx,
  step: DrainStep,
  drain: DrainRow,
  item: DrainSandboxRow,
  sandbox: SandboxRow,
  snapshot: StoredSnapshotRow | undefined,
): Promise<Decided> {
  const now = new Date();
  switch (step.do) {
    case "wait":
      return nothing(
        step.giveBack === true && item.workingSince !== null ? { workingSince: null } : {},
      );
    case "end": {
      return nothing({
        endedAt: now,
        outcome: step.outcome,
        workingSince: null,
        owesResume: false,
        error: null,
      });
    }
    case "fail":
      return nothing({
        error: step.error,
        retryAt: step.retryAt,
        attempts: item.attempts + 1,
        // The next try makes another copy.
        bytesDone: 0,
        workingSince: null,
        owesResume: false,
        operationId: null,
      });
    case "pin":
      await pinOperation(tx, step.operationId, drain.hostId, RESUME_DEADLINE_MS);
      return nothing(step.error === undefined ? {} : { error: step.error });
    case "pause": {
      const asked = await ask(tx, sandbox, "pause", {
        deadlineMs: PAUSE_DEADLINE_MS,
        ...bandwidth(drain),
      });
      return {
        ...asked,
        patch: { ...asked.patch, ...(asked.isOwn ? { owesResume: true, error: null } : {}) },
      };
    }
    case "resume": {
      const bytes = Math.max(item.bytesTotal, snapshot?.sizeBytes ?? 0);
      const terms = step.isPinned
        ? { deadlineMs: RESUME_DEADLINE_MS, pinnedHostId: drain.hostId }
        : {
            deadlineMs: RESUME_WAIT_MS + RESUME_DEADLINE_MS + fetchMs(drain, bytes),
            ...bandwidth(drain),
          };
      const asked = await ask(tx, sandbox, "resume", terms);
      const again = {
        error: step.error,
        attempts: item.attempts + 1,
        retryAt: retryAfter(item.attempts, now),
      };
      return { ...asked, patch: { ...asked.patch, ...(step.error === undefined ? {} : again) } };
    }
    case "copy":
    case "release": {
      const isDue =
        item.replicationAskedAt === null ||
        now.getTime() - item.replicationAskedAt.getTime() > REQUEST_AGAIN_MS;
      return {
        patch: isDue ? { replicationAskedAt: now } : {},
        next: { kind: step.do, asks: isDue },
      };
    }
    case "take_place":
      return { patch: {}, next: { kind: "take_place" } };
  }
}

/**
 * Requests an operation. When a user's operation is joined, or is in the way, that one goes first,
 * and the next round tries again.
 */
async function ask(
  tx: Tx,
  sandbox: SandboxRow,
  kind: "pause" | "resume",
  terms: { deadlineMs: number; pinnedHostId?: HostId; maxBytesPerSecond?: number },
): Promise<Decided & { isOwn: boolean }> {
  const requester = {
    organizationId: sandbox.organizationId,
    requestedBy: DRAINER,
    exemptFromQuotas: true,
    ...terms,
  };
  const accepted = await acceptWithin(tx, sandbox.id, kind, requester);
  const isOwn = accepted.kind === "accepted" && accepted.operation.requestedBy === DRAINER;
  if (accepted.kind !== "accepted" || !isOwn) return { ...nothing(), isOwn };
  const { operation, messages } = accepted;
  return {
    patch: { operationId: operation.id },
    next: { kind: "begin", operationId: operation.id, messages },
    isOwn,
  };
}

async function leave(
  deps: Deps,
  drain: DrainRow,
  sandboxId: SandboxId,
  how: { kind: "copy" | "release"; asks: boolean },
): Promise<void> {
  const sandbox = await findSandboxRow(deps.db, sandboxId);
  if (sandbox?.hostId !== drain.hostId) return;
  const isOnlyHere =
    how.kind === "copy" || (await releaseFromHost(deps, sandbox)) === "not_replicated";
  if (isOnlyHere && how.asks) await requestReplication(deps, sandbox, bandwidth(drain));
}

/** Time that a transfer to another host may take. */
function fetchMs(drain: DrainRow, bytes: number): number {
  const { maxBytesPerSecond = SLOW_BYTES_PER_SECOND } = bandwidth(drain);
  return Math.ceil((bytes / Math.min(SLOW_BYTES_PER_SECOND, maxBytesPerSecond)) * 1000);
}

/** The drain's bytes per second, shared by the sandboxes that it moves at once. */
function bandwidth({ maxBytesPerSecond, maxParallel }: DrainRow): { maxBytesPerSecond?: number } {
  return maxBytesPerSecond === null
    ? {}
    : { maxBytesPerSecond: Math.max(1, Math.floor(maxBytesPerSecond / maxParallel)) };
}
