/**
 * What a host says of its copy of a snapshot at an epoch that has passed: the sandbox was sent elsewhere from it, and is on its way, or came back without the host being told. That moves
 * no sandbox; but whether a snapshot is in the store is so whoever says it and when, and the manifest says of which.
 */
import type { Observation } from "@torpor/contracts";
import {
  findSnapshotByManifest,
  inTransaction,
  moveSandbox,
  type MoveResult,
  noteSnapshotNotStored,
  noteSnapshotStored,
  type SandboxRow,
  type SnapshotRow,
  type Tx,
} from "@torpor/db";
import { isTombstoned } from "@torpor/state-machine";
import type { Deps } from "./deps.ts";

/** True when it was news, and is recorded. False also when the sandbox changed meanwhile: the host says it again. */
export async function noteLateCopy(deps: Deps, sandbox: SandboxRow, seen: Observation): Promise<boolean> {
  if (seen.snapshot === undefined || isTombstoned(sandbox.state)) return false;
  const known = await findSnapshotByManifest(deps.db, sandbox.id, seen.snapshot.manifestSha256);
  const news = known === undefined ? undefined : newsOf(known, sandbox, seen);
  if (news === undefined) return false;
  const result = await inTransaction<MoveResult, MoveResult>(deps.db, async (tx, rollback) => {
    const move = await moveSandbox(tx, { sandbox, to: sandbox.state, fact: news.fact, cause: seen.replicationFailed });
    if (move.kind !== "moved") return rollback(move);
    await news.record(tx);
    return move;
  });
  if (result.kind !== "moved") return false;
  deps.log.info({ sandboxId: sandbox.id, hostId: seen.hostId, epoch: seen.epoch, fact: news.fact }, "a host spoke of an earlier copy");
  await deps.publishCommitted(result.outboxIds);
  return true;
}

function newsOf(
  known: SnapshotRow,
  sandbox: SandboxRow,
  { snapshot, hostId, replicationFailed }: Observation,
): { fact: string; record: (tx: Tx) => Promise<void> } | undefined {
  const { sandboxId, generation, manifestSha256 } = known;
  const storeKey = snapshot?.storeKey ?? null;
  if (known.storeKey !== null) return undefined;
  if (storeKey !== null)
    return { fact: "snapshot_stored", record: (tx) => noteSnapshotStored(tx, { sandboxId, generation, manifestSha256, storeKey }) };
  // Where another host has a copy as well, that one may do better.
  if (replicationFailed === undefined || known.storeError !== null || sandbox.hostId !== hostId) return undefined;
  const failed = { sandboxId, generation, manifestSha256, storeError: replicationFailed };
  return { fact: "snapshot_not_stored", record: (tx) => noteSnapshotNotStored(tx, failed) };
}
