/**
 * Decides what becomes of a copy on a host that is not, or no longer, the sandbox's host. The copy
 * is discarded only when it is proven stale: the sandbox is deleted or its create failed, or a
 * newer incarnation ran, or the copy's own incarnation never ran and no resume will use the copy,
 * or the copy was released and the store has it. Any other copy is kept, and reported if the
 * database cannot explain it.
 */
import type { Observation } from "@torpor/contracts";
import { isTombstoned } from "@torpor/state-machine";
import type { View } from "./rows.ts";

/**
 * Time for which a copy that was fetched but never run is kept for the next try on that host, in
 * ms. No capacity is reserved for the copy.
 */
const UNRUN_KEPT_MS = 3_600_000;

export type ForeignDecision =
  | { kind: "discard"; why: string }
  /** Kept until a newer incarnation has run. `report`: the finding for an operator. */
  | { kind: "keep"; report?: { kind: "unknown" | "stale"; why: string; discardEpoch: number } };

/** `view.named.run` is the run of the observation's epoch. */
export function judgeForeign(view: View, seen: Observation, now: Date): ForeignDecision {
  const why = staleBecause(view, seen, now);
  if (why !== undefined) return { kind: "discard", why };
  const { id, hostId, epoch } = view.sandbox;
  const where = `Sandbox ${id} is ${hostId === null ? "on no host" : `on host ${hostId}`} at epoch ${epoch}`;
  if (isUnknownRun(view, seen)) {
    const told =
      `${where}; the database knows nothing of a run of epoch ${seen.epoch} on this host. ` +
      "Was it restored from a backup?";
    return {
      kind: "keep",
      report: { kind: "unknown", why: told, discardEpoch: seen.epoch + 1 },
    };
  }
  if (seen.state !== "running" || seen.epoch >= epoch) return { kind: "keep" };
  const told = `${where}; this is a run of epoch ${seen.epoch}.`;
  return { kind: "keep", report: { kind: "stale", why: told, discardEpoch: epoch } };
}

function staleBecause(view: View, seen: Observation, now: Date): string | undefined {
  const { sandbox, executing, newestRun, named } = view;
  if (isTombstoned(sandbox.state)) return "deleted";
  if (sandbox.state === "error" && sandbox.hostId === null) return "create failed";
  if (executing !== undefined) return undefined;
  if (isReleased(view, seen)) return "released";
  const hasNewerRun = (newestRun?.startedAt ?? null) !== null;
  if (seen.epoch < sandbox.epoch && hasNewerRun) return "a newer incarnation ran";
  // A run that the database does not know proves nothing, and neither does one that the host
  // contradicts.
  const { run } = named;
  if (run === undefined || run.hostId !== seen.hostId || run.startedAt !== null) return undefined;
  if (seen.state === "running") return undefined;
  return isOfUse(view, run.assignedAt, seen, now) ? undefined : "it never ran";
}

/**
 * The host reports a run that the database has not assigned to it, or has not seen start, and the
 * database knows of no newer epoch.
 */
function isUnknownRun({ sandbox, named: { run } }: View, seen: Observation): boolean {
  if (seen.epoch < sandbox.epoch) return false;
  if (run === undefined || run.hostId !== seen.hostId) return true;
  return seen.state === "running" && run.startedAt === null;
}

/** The copy is the whole snapshot that the sandbox rests on, and was assigned not long ago. */
function isOfUse({ snapshot }: View, assignedAt: Date, seen: Observation, now: Date): boolean {
  if (now.getTime() - assignedAt.getTime() > UNRUN_KEPT_MS) return false;
  return snapshot !== undefined && seen.snapshot?.manifestSha256 === snapshot.manifestSha256;
}

/**
 * The sandbox is on no host, and the store has the snapshot that it rests on: a host that still
 * holds a copy has not received the discard.
 */
function isReleased({ sandbox, snapshot }: View, seen: Observation): boolean {
  if (sandbox.hostId !== null || seen.state !== sandbox.state || seen.busyWith !== undefined)
    return false;
  if (snapshot === undefined || snapshot.storeKey === null) return false;
  return seen.snapshot?.manifestSha256 === snapshot.manifestSha256;
}
