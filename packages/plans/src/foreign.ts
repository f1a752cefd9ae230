/**
 * What is to become of a copy on a host that is not, or no longer, the sandbox's. It is discarded
 * only when it is proven stale: the sandbox is deleted, or a newer incarnation ran, or this copy's
 * own incarnation never ran and nobody will come back to it, or it was released and the store has
 * it. Otherwise it is left alone, and reported where nobody can explain it.
 */
import type { Observation } from "@torpor/contracts";
import { isTombstoned } from "@torpor/state-machine";
import type { View } from "./rows.ts";

/**
 * What was fetched and not run is kept for so long, for the next try on that host; it is reserved
 * nowhere.
 */
const UNRUN_KEPT_MS = 3_600_000;

export type ForeignDecision =
  | { kind: "discard"; why: string }
  /** It is kept until a newer incarnation has run. `report`: an operator is told. */
  | { kind: "keep"; report?: { kind: "unknown" | "stale"; why: string; discardEpoch: number } };

/** `view.named`: the run of the observation's epoch. */
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
  // What the database does not know is no proof, and neither is what the host contradicts.
  const { run } = named;
  if (run === undefined || run.hostId !== seen.hostId || run.startedAt !== null) return undefined;
  if (seen.state === "running") return undefined;
  return isOfUse(view, run.assignedAt, seen, now) ? undefined : "it never ran";
}

/** The host has had it run, or assigned, when the database has not, and nothing newer is known. */
function isUnknownRun({ sandbox, named: { run } }: View, seen: Observation): boolean {
  if (seen.epoch < sandbox.epoch) return false;
  if (run === undefined || run.hostId !== seen.hostId) return true;
  return seen.state === "running" && run.startedAt === null;
}

/** The whole of the snapshot that the sandbox rests on, fetched not long ago. */
function isOfUse({ snapshot }: View, assignedAt: Date, seen: Observation, now: Date): boolean {
  if (now.getTime() - assignedAt.getTime() > UNRUN_KEPT_MS) return false;
  return snapshot !== undefined && seen.snapshot?.manifestSha256 === snapshot.manifestSha256;
}

/**
 * On no host, and the store has what it rests on: a host that still holds it has not got the
 * message.
 */
function isReleased({ sandbox, snapshot }: View, seen: Observation): boolean {
  if (sandbox.hostId !== null || seen.state !== sandbox.state || seen.busyWith !== undefined)
    return false;
  if (snapshot === undefined || snapshot.storeKey === null) return false;
  return seen.snapshot?.manifestSha256 === snapshot.manifestSha256;
}
