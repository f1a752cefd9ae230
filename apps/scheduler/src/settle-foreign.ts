/**
 * A host reports a sandbox that belongs to another host, or to none any more. Its copy is discarded only when it is proven stale (architecture.md 6): the sandbox is deleted, or a
 * newer incarnation ran, or this copy's own incarnation never ran and nobody will come back to it, or it was released (release.ts) and the store has it. Otherwise it is left alone
 * and reported.
 */
import { type Observation, subjects } from "@torpor/contracts";
import { findIncarnation, findOpenOperations, findSnapshot, type IncarnationRow, insertOutbox, type SandboxRow } from "@torpor/db";
import { isTombstoned } from "@torpor/state-machine";
import { systemCommand } from "./commands.ts";
import type { Deps } from "./deps.ts";
import { reportStray } from "./inventory/strays.ts";
import { noteLateCopy } from "./note-late-copy.ts";
import type { Settled } from "./settle-observation.ts";

/** What was fetched and not run is kept for so long, for the next try on that host; it is reserved nowhere. */
const UNRUN_KEPT_MS = 3_600_000;

export async function settleForeign(deps: Deps, sandbox: SandboxRow, seen: Observation): Promise<Settled> {
  // Nothing is there but, of a fetch that failed, what has arrived: the next one goes on with it, and the host removes it after a day.
  if (seen.state === "deleted" || seen.state === "failed") return "stale";
  await noteLateCopy(deps, sandbox, seen);
  const run = await findIncarnation(deps.db, sandbox.id, seen.epoch);
  const why = await staleBecause(deps, sandbox, seen, run);
  const facts = { sandboxId: sandbox.id, hostId: seen.hostId, itsEpoch: seen.epoch, epoch: sandbox.epoch, at: sandbox.hostId };
  if (why === undefined) {
    const isRunning = seen.state === "running";
    deps.log[isRunning ? "warn" : "debug"](facts, "a host holds a sandbox of another host; it is kept until a newer incarnation has run");
    const where = `Sandbox ${sandbox.id} is ${sandbox.hostId === null ? "on no host" : `on host ${sandbox.hostId}`} at epoch ${sandbox.epoch}`;
    if (isUnknownRun(sandbox, seen, run)) {
      const told = `${where}; the database knows nothing of a run of epoch ${seen.epoch} on this host. Was it restored from a backup?`;
      await reportStray(deps, seen, { kind: "unknown", why: told, discardEpoch: seen.epoch + 1 });
    } else if (isRunning && seen.epoch < sandbox.epoch) {
      const told = `${where}; this is a run of epoch ${seen.epoch}.`;
      await reportStray(deps, seen, { kind: "stale", why: told, discardEpoch: sandbox.epoch });
    }
    return "foreign";
  }
  deps.log.info({ ...facts, why }, "a stale copy is discarded");
  const command = { ...systemCommand("discard", sandbox, seen.hostId), epoch: Math.max(sandbox.epoch, seen.epoch) };
  await deps.publishCommitted(await insertOutbox(deps.db, [{ subject: subjects.command(seen.hostId, "discard"), payload: command }]));
  return "foreign";
}

/** `run`: the incarnation of the copy's epoch. */
async function staleBecause(
  deps: Deps,
  sandbox: SandboxRow,
  seen: Observation,
  run: IncarnationRow | undefined,
): Promise<string | undefined> {
  if (isTombstoned(sandbox.state)) return "deleted";
  if (sandbox.state === "error" && sandbox.hostId === null) return "create failed";
  const { executing } = await findOpenOperations(deps.db, sandbox.id);
  if (executing !== undefined) return undefined;
  if (await isReleased(deps, sandbox, seen)) return "released";
  if (seen.epoch < sandbox.epoch) {
    const newest = await findIncarnation(deps.db, sandbox.id, sandbox.epoch);
    if (newest !== undefined && newest.startedAt !== null) return "a newer incarnation ran";
  }
  // What the database does not know is no proof, and neither is what the host contradicts.
  if (run === undefined || run.hostId !== seen.hostId || run.startedAt !== null || seen.state === "running") return undefined;
  return (await isOfUse(deps, run, seen)) ? undefined : "it never ran";
}

/** The host has had it run, or assigned, when the database has not, and nothing newer is known. */
function isUnknownRun(sandbox: SandboxRow, { epoch, hostId, state }: Observation, run: IncarnationRow | undefined): boolean {
  if (epoch < sandbox.epoch) return false;
  return run === undefined || run.hostId !== hostId || (state === "running" && run.startedAt === null);
}

/** The whole of the snapshot that the sandbox rests on, fetched not long ago. */
async function isOfUse(deps: Deps, { sandboxId, assignedAt }: IncarnationRow, seen: Observation): Promise<boolean> {
  if (Date.now() - assignedAt.getTime() > UNRUN_KEPT_MS) return false;
  const snapshot = await findSnapshot(deps.db, sandboxId);
  return snapshot !== undefined && seen.snapshot?.manifestSha256 === snapshot.manifestSha256;
}

/** On no host, and the store has what it rests on: a host that still holds it has not got the message. */
async function isReleased(deps: Deps, sandbox: SandboxRow, seen: Observation): Promise<boolean> {
  if (sandbox.hostId !== null || seen.state !== sandbox.state || seen.busyWith !== undefined) return false;
  const snapshot = await findSnapshot(deps.db, sandbox.id);
  return snapshot !== undefined && snapshot.storeKey !== null && seen.snapshot?.manifestSha256 === snapshot.manifestSha256;
}
