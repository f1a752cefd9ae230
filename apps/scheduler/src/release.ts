/** A sandbox that stands still leaves its host: its copy in the store is then the only one. */
import { subjects } from "@torpor/contracts";
import { findSnapshot, inTransaction, moveSandbox, type MoveResult, type SandboxRow } from "@torpor/db";
import { systemCommand } from "./commands.ts";
import type { Deps } from "./deps.ts";

/** Has its host copy the sandbox to the store. A paused sandbox is copied without being told. */
export async function requestReplication(deps: Deps, sandbox: SandboxRow, options: { maxBytesPerSecond?: number } = {}): Promise<void> {
  deps.log.debug({ sandboxId: sandbox.id, hostId: sandbox.hostId, ...options }, "its copy in the store is waited for");
}

export type Released = "released" | "not_replicated" | "lost_race";

/** The sandbox is on no host from then on, and its host is told to discard what it holds. */
export async function releaseFromHost(deps: Deps, sandbox: SandboxRow): Promise<Released> {
  const { hostId } = sandbox;
  const snapshot = await findSnapshot(deps.db, sandbox.id);
  if (sandbox.state !== "paused" || hostId === null || snapshot === undefined || snapshot.storeKey === null) return "not_replicated";
  const discard = { subject: subjects.command(hostId, "discard"), payload: systemCommand("discard", sandbox, hostId) };
  const released = await inTransaction<MoveResult, MoveResult>(deps.db, async (tx, rollback) => {
    const move = await moveSandbox(tx, { sandbox, to: sandbox.state, fact: "released", patch: { hostId: null }, messages: [discard] });
    return move.kind === "moved" ? move : rollback(move);
  });
  if (released.kind !== "moved") return "lost_race";
  deps.log.info({ sandboxId: sandbox.id, hostId }, "sandbox released from its host");
  await deps.publishCommitted(released.outboxIds);
  return "released";
}
