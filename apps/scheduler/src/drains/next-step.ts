/**
 * Decides what a drain does next with one sandbox. Pure: only the rows count, so that any scheduler
 * can continue where another one stopped.
 *
 * NS1  Operations that others have requested run first. A drain requests nothing while an operation
 *      is open, except to take its own pause back.
 * NS2  For a sandbox that the drain has paused, a resume is pending: elsewhere or, when that fails,
 *      where the sandbox was. Until then the sandbox keeps its slot. It is copied to the store
 *      first, so that it survives the loss of any host; if that fails, the new host fetches it
 *      straight from this one. It waits for room elsewhere for no longer than RESUME_WAIT_MS.
 * NS3  A sandbox that cannot be moved stays as it was, with the reason, and is tried again later.
 * NS4  Of a lost host, only sandboxes with a pending resume and their snapshot in the store are
 *      resumed, elsewhere. Nothing else is requested.
 */
import type { Cause, OperationId } from "@torpor/contracts";
import {
  type DrainAtWork,
  type DrainedSandboxEnd,
  DRAINER,
  type DrainSandboxRow,
  type OperationRow,
  type SandboxRow,
} from "@torpor/db";
import { isTombstoned } from "@torpor/state-machine";
import { isPlacementRejection } from "@torpor/plans";

/** Time that a resume may wait for room elsewhere, while its sandbox is at rest. */
export const RESUME_WAIT_MS = 45_000;
/** A copy to the store that has not grown for this long has failed. */
const STALLED_MS = 120_000;
const RETRY_MS = 5_000;
const MAX_RETRY_MS = 60_000;
const NOT_BEGUN = "It could not begin on another host in time.";
/** Code that a host without a store reports. */
const NO_STORE = "NO_SNAPSHOT_STORE";
/** After this many failures to return to its host, a sandbox may run on any host. */
const HOME_ATTEMPTS = 2;

export interface DrainFacts {
  drain: Pick<DrainAtWork, "hostId" | "status" | "isHostLost">;
  item: Pick<
    DrainSandboxRow,
    "workingSince" | "progressedAt" | "owesResume" | "retryAt" | "attempts" | "error"
  >;
  sandbox: Pick<SandboxRow, "state" | "hostId">;
  executing: OperationRow | undefined;
  waiting: OperationRow | undefined;
  /** The newest operation that the drain has requested. */
  own: OperationRow | undefined;
  /** The snapshot of a paused sandbox, or the disk of a stopped one, is in the store. */
  isStored: boolean;
  /** Reason why the host could not copy to the store. */
  storeError: Cause | null;
  /** Time when another copy of the host grew, while this one has not begun. */
  othersGrewAt: Date | null;
  now: Date;
}

export type DrainStep =
  | { do: "wait"; giveBack?: true }
  | { do: "end"; outcome: DrainedSandboxEnd }
  /** The sandbox needs one of the drain's slots. */
  | { do: "take_place" }
  | { do: "pause" }
  /** `error`: why the sandbox goes back to where it was. */
  | { do: "resume"; isPinned: boolean; error?: Cause }
  /**
   * A waiting resume of the drain is to stay on its host after all. `error`: the reason, if the
   * drain was not given up.
   */
  | { do: "pin"; operationId: OperationId; error?: Cause }
  | { do: "copy" }
  /** A paused or stopped sandbox leaves the host once the store has its copy. */
  | { do: "release" }
  | { do: "fail"; error: Cause; retryAt: Date };

const wait: DrainStep = { do: "wait" };

export function nextStep(facts: DrainFacts): DrainStep {
  const { drain, sandbox, item } = facts;
  if (isTombstoned(sandbox.state)) return { do: "end", outcome: "gone" };
  if (facts.executing !== undefined || facts.waiting !== undefined) return whileOpen(facts);
  if (drain.status === "undoing" && !item.owesResume) return { do: "end", outcome: "returned" };
  const isOut = drain.isHostLost && sandbox.hostId === drain.hostId;
  if (isOut && (drain.status === "active" || sandbox.state === "paused")) return whileLost(facts);
  switch (sandbox.state) {
    case "running":
      return whileRunning(facts);
    case "paused":
      return item.owesResume ? whilePausedByDrain(facts) : whileStanding(facts);
    case "stopped":
      return whileStanding(facts);
    case "error":
      return whileInError(facts);
    default:
      return wait;
  }
}

/** NS1. An operation of this drain that a user has joined is the user's (A5). */
function whileOpen({ drain, sandbox, item, executing, waiting, own, now }: DrainFacts): DrainStep {
  const last = waiting ?? executing;
  if (last?.requestedBy !== DRAINER || last.id !== own?.id)
    return item.owesResume ? wait : { do: "wait", giveBack: true };
  if (last.kind === "pause")
    return drain.status === "undoing" ? { do: "resume", isPinned: true } : wait;
  const canGoHome = sandbox.hostId === drain.hostId && !drain.isHostLost;
  if (last.status !== "waiting" || last.pinnedHostId !== null || !canGoHome) return wait;
  if (drain.status === "undoing") return { do: "pin", operationId: last.id };
  const isOverdue = now.getTime() - last.createdAt.getTime() > RESUME_WAIT_MS;
  if (!isOverdue) return wait;
  const reason = isPlacementRejection(last.explain) ? last.explain.message : NOT_BEGUN;
  return { do: "pin", operationId: last.id, error: noRoomElsewhere(reason) };
}

export const noRoomElsewhere = (message: string): Cause => ({
  code: "NO_CAPACITY_ELSEWHERE",
  message,
});

function whileRunning(facts: DrainFacts): DrainStep {
  const { drain, sandbox, item } = facts;
  if (sandbox.hostId !== drain.hostId) return { do: "end", outcome: "moved" };
  if (drain.status === "undoing") return { do: "end", outcome: "returned" };
  // The sandbox was paused, or was to be, and runs here again.
  if (item.owesResume) return fail(facts, item.error ?? failureOf(facts.own) ?? USED_MEANWHILE);
  return item.workingSince === null ? { do: "take_place" } : { do: "pause" };
}

function whilePausedByDrain(facts: DrainFacts): DrainStep {
  const { drain, sandbox, item, own, isStored, storeError, now } = facts;
  const failure = own?.kind === "resume" ? failureOf(own) : undefined;
  if (failure !== undefined && item.retryAt !== null && item.retryAt > now) return wait;
  const isAtHome = sandbox.hostId === drain.hostId;
  const goHome = isAtHome && item.attempts < HOME_ATTEMPTS;
  if (drain.status === "undoing" || failure !== undefined)
    return {
      do: "resume",
      isPinned: goHome || (isAtHome && !isStored),
      ...(failure === undefined ? {} : { error: failure }),
    };
  if (!isStored && storeError === null)
    return isStalled(facts) ? { do: "resume", isPinned: true, error: NOT_COPIED } : { do: "copy" };
  return { do: "resume", isPinned: false };
}

/** NS4. */
function whileLost({ sandbox, item, isStored, own, now }: DrainFacts): DrainStep {
  if (sandbox.state !== "paused" || !item.owesResume || !isStored) return wait;
  const failure = own?.kind === "resume" ? failureOf(own) : undefined;
  if (failure === undefined) return { do: "resume", isPinned: false };
  return item.retryAt !== null && item.retryAt > now
    ? wait
    : { do: "resume", isPinned: false, error: failure };
}

/** Step for a sandbox that its owner has paused or stopped. */
function whileStanding(facts: DrainFacts): DrainStep {
  const { drain, sandbox, item, storeError } = facts;
  if (sandbox.hostId !== drain.hostId)
    return { do: "end", outcome: sandbox.hostId === null ? "released" : "moved" };
  if (drain.status === "undoing") return { do: "end", outcome: "returned" };
  if (item.workingSince === null) return { do: "take_place" };
  // The error of the last try may be old; but without a store no try will succeed.
  if (storeError?.code === NO_STORE) return fail(facts, storeError);
  return isStalled(facts) ? fail(facts, NOT_COPIED) : { do: "release" };
}

function whileInError(facts: DrainFacts): DrainStep {
  if (facts.sandbox.hostId !== facts.drain.hostId || facts.drain.status === "undoing")
    return { do: "end", outcome: "gone" };
  return fail(facts, IN_ERROR);
}

/**
 * The copy's time excludes the pause, and the time in which other copies go first: a host makes
 * only a few at once.
 */
function isStalled({ item, own, othersGrewAt, now }: DrainFacts): boolean {
  const progressedAt = item.progressedAt ?? item.workingSince;
  if (progressedAt === null) return false;
  const pausedAt = own?.kind === "pause" ? own.endedAt : null;
  const since = Math.max(...[progressedAt, pausedAt, othersGrewAt].map((at) => at?.getTime() ?? 0));
  return now.getTime() - since > STALLED_MS;
}

export function fail({ item, now }: Pick<DrainFacts, "item" | "now">, error: Cause): DrainStep {
  return { do: "fail", error, retryAt: retryAfter(item.attempts, now) };
}

export function retryAfter(attempts: number, now: Date): Date {
  return new Date(now.getTime() + Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** attempts));
}

/**
 * Cause of a failure. An operation that was taken back or replaced has not failed; one that its
 * host has given up unasked has.
 */
function failureOf(own: OperationRow | undefined): Cause | undefined {
  const isGivenUp = own?.status === "cancelled" && own.cancelRequestedAt === null;
  if (own === undefined || (own.status !== "failed" && !isGivenUp)) return undefined;
  return own.error ?? { code: "OPERATION_FAILED", message: `The ${own.kind} failed.` };
}

const USED_MEANWHILE: Cause = {
  code: "SANDBOX_RESUMED",
  message: "It was resumed where it is while the drain was moving it. It is tried again later.",
};
const NOT_COPIED: Cause = {
  code: "NOT_REPLICATED",
  message:
    "Its copy did not reach the snapshot store, so it stays. See whether the host reaches the store; it is tried again later.",
};
const IN_ERROR: Cause = {
  code: "SANDBOX_IN_ERROR",
  message: "It is in the state error and cannot be moved. Delete it.",
};
