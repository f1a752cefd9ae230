/**
 * Taking a sandbox that stands still off its host: its copy in the store, then its host's capacity back. A later resume or start is placed anywhere, and fetches.
 *
 * RH1  What the store has not got is never released: the row of its snapshot has a store key, which its host reports once the last byte of it is there.
 * RH2  One compare-and-set moves the sandbox and tells the host to discard its copy. A message that is lost is repeated when the host reports the copy (settle-foreign.ts).
 */
import { subjects } from "@torpor/contracts";
import { findSnapshot, inTransaction, insertOutbox, moveSandbox, type MoveResult, type SandboxRow } from "@torpor/db";
import { systemCommand } from "./commands.ts";
import type { Deps } from "./deps.ts";

type ReleaseDeps = Pick<Deps, "db" | "log" | "publishCommitted">;

/** `requested`: the host has been told; ask again until it is `replicated`, a repeat costs nothing. `not_possible`: it neither stands still, nor is it on a host. */
export type ReplicationRequested = "requested" | "replicated" | "not_possible";

/** Has a paused or stopped sandbox copied to the store. */
export async function requestReplication(
  deps: ReleaseDeps,
  sandbox: SandboxRow,
  options: { maxBytesPerSecond?: number } = {},
): Promise<ReplicationRequested> {
  if (!standsStill(sandbox)) return "not_possible";
  if (await isReplicated(deps, sandbox)) return "replicated";
  const { hostId } = sandbox;
  if (hostId === null) return "not_possible";
  const { maxBytesPerSecond } = options;
  const payload = { ...systemCommand("replicate", sandbox, hostId), ...(maxBytesPerSecond === undefined ? {} : { maxBytesPerSecond }) };
  await deps.publishCommitted(await insertOutbox(deps.db, [{ subject: subjects.command(hostId, "replicate"), payload }]));
  return "requested";
}

/** `lost_race`: it changed meanwhile; read it again, then decide again. `not_possible`: it neither stands still, nor is it on a host. */
export type Released = "released" | "not_replicated" | "not_possible" | "lost_race";

/** Takes a paused or stopped, replicated sandbox off its host. */
export async function releaseFromHost(deps: ReleaseDeps, sandbox: SandboxRow): Promise<Released> {
  const { hostId } = sandbox;
  if (hostId === null || !standsStill(sandbox)) return "not_possible";
  if (!(await isReplicated(deps, sandbox))) return "not_replicated";
  const discard = { subject: subjects.command(hostId, "discard"), payload: systemCommand("discard", sandbox, hostId) };
  const move = { sandbox, to: sandbox.state, fact: "released", patch: { hostId: null, holdsMemory: false }, messages: [discard] };
  const result = await inTransaction<MoveResult, MoveResult>(deps.db, async (tx, rollback) => {
    const moved = await moveSandbox(tx, move);
    return moved.kind === "moved" ? moved : rollback(moved);
  });
  if (result.kind !== "moved") return "lost_race";
  deps.log.info({ sandboxId: sandbox.id, hostId, state: sandbox.state }, "sandbox released from its host");
  await deps.publishCommitted(result.outboxIds);
  return "released";
}

function standsStill({ state }: SandboxRow): boolean {
  return state === "paused" || state === "stopped";
}

async function isReplicated(deps: ReleaseDeps, sandbox: SandboxRow): Promise<boolean> {
  const snapshot = await findSnapshot(deps.db, sandbox.id);
  return snapshot !== undefined && snapshot.storeKey !== null;
}
