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
  const why = await staleBecause(deps, sandbox, seen);
  const facts = { sandboxId: sandbox.id, hostId: seen.hostId, itsEpoch: seen.epoch, epoch: sandbox.epoch, at: sandbox.hostId };
  if (why === undefined) {
    deps.log.warn(facts, "a host holds a sandbox of another host; it is kept until a newer incarnation has run");
    if (seen.state === "running" && seen.epoch < sandbox.epoch) {
      const where = sandbox.hostId === null ? "on no host" : `on host ${sandbox.hostId}`;
      const told = `Sandbox ${sandbox.id} is ${where} at epoch ${sandbox.epoch}; this is a run of epoch ${seen.epoch}.`;
      await reportStray(deps, seen, { kind: "stale", why: told, discardEpoch: sandbox.epoch });
    }
    return "foreign";
  }
  deps.log.info({ ...facts, why }, "a stale copy is discarded");
  const command = { ...systemCommand("discard", sandbox, seen.hostId), epoch: Math.max(sandbox.epoch, seen.epoch) };
  await deps.publishCommitted(await insertOutbox(deps.db, [{ subject: subjects.command(seen.hostId, "discard"), payload: command }]));
  return "foreign";
}

async function staleBecause(deps: Deps, sandbox: SandboxRow, seen: Observation): Promise<string | undefined> {
  if (isTombstoned(sandbox.state)) return "deleted";
  if (sandbox.state === "error" && sandbox.hostId === null) return "create failed";
  const { executing } = await findOpenOperations(deps.db, sandbox.id);
  if (executing !== undefined) return undefined;
  if (await isReleased(deps, sandbox, seen)) return "released";
  if (seen.epoch < sandbox.epoch) {
    const newest = await findIncarnation(deps.db, sandbox.id, sandbox.epoch);
    return newest !== undefined && newest.startedAt !== null ? "a newer incarnation ran" : undefined;
  }
  const own = await findIncarnation(deps.db, sandbox.id, seen.epoch);
  if (own !== undefined && own.startedAt !== null) return undefined;
  return own !== undefined && (await isOfUse(deps, own, seen)) ? undefined : "it never ran";
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
