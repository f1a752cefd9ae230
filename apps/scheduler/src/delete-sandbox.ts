/**
 * Delete: the tombstone is set at once, whatever executes; the host owes the clean-up. `deleting` is that debt: it reserves what the sandbox held until the host confirms.
 */
import { subjects } from "@torpor/contracts";
import { inTransaction, moveOperation, moveSandbox, type MoveResult, type OperationRow, type SandboxRow } from "@torpor/db";
import { isTombstoned } from "@torpor/state-machine";
import { commandFor } from "./commands.ts";
import type { Begun, Deps } from "./deps.ts";

export async function finishDelete(
  deps: Deps,
  operation: OperationRow,
  sandbox: SandboxRow,
  executing: OperationRow | undefined,
): Promise<Begun | "again"> {
  const result = await inTransaction<number[] | null, MoveResult>(deps.db, async (tx, rollback) => {
    const error = { code: "OPERATION_SUPERSEDED", message: "The sandbox was deleted meanwhile." };
    if (executing !== undefined) await moveOperation(tx, executing.id, "cancel", { error });
    const done = await moveOperation(tx, operation.id, "succeed");
    if (done === undefined) return null;
    if (isTombstoned(sandbox.state)) return [];
    const opSeq = sandbox.opSeq + 1;
    const hostId = sandbox.hostId;
    const command = hostId === null ? undefined : commandFor(operation, sandbox, { hostId, epoch: Math.max(1, sandbox.epoch), opSeq });
    const tombstone = await moveSandbox(tx, {
      sandbox,
      to: "deleting",
      fact: "delete_accepted",
      patch: { opSeq, expiresAt: null, endedAt: new Date() },
      operation: { id: done.id, status: done.status },
      messages: command === undefined || hostId === null ? [] : [{ subject: subjects.command(hostId, "delete"), payload: command }],
    });
    if (tombstone.kind !== "moved") return rollback(tombstone);
    if (hostId !== null) return tombstone.outboxIds;
    // It never reached a host: nothing is owed.
    const gone = await moveSandbox(tx, { sandbox: tombstone.sandbox, to: "deleted", fact: "deleted" });
    return gone.kind === "moved" ? [...tombstone.outboxIds, ...gone.outboxIds] : rollback(gone);
  });
  if (result === null) return { kind: "nothing" };
  if (!Array.isArray(result)) return "again";
  deps.log.info({ sandboxId: sandbox.id, operationId: operation.id, requestedBy: operation.requestedBy }, "sandbox tombstoned");
  await deps.publishCommitted(result);
  return { kind: "ended" };
}
