/** Deleted sandboxes with a pending clean-up on their host: state `deleting`. */
import type { HostId } from "@torpor/contracts";
import { LEASED_STATES } from "@torpor/state-machine";
import { and, asc, eq, inArray, lt, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { isOneOf } from "../../literals.ts";
import { hosts, sandboxes } from "../../schema.ts";
import type { SandboxRow } from "./sandbox-row.ts";

/**
 * Takes sandboxes whose host was last sent the delete more than `olderThanMs` ago, oldest first,
 * and marks them as sent now. Lost hosts are left out: they get the delete when they return.
 * Concurrent callers take different sandboxes.
 */
export async function takePendingDeletes(
  tx: Tx,
  olderThanMs: number,
  limit: number,
): Promise<SandboxRow[]> {
  const due = tx
    .select({ id: sandboxes.id })
    .from(sandboxes)
    .innerJoin(hosts, eq(hosts.id, sandboxes.hostId))
    .where(
      and(
        isOneOf(sandboxes.state, "deleting"),
        lt(sandboxes.updatedAt, sql`now() - ${`${olderThanMs} milliseconds`}::interval`),
        inArray(hosts.state, [...LEASED_STATES]),
      ),
    )
    .orderBy(asc(sandboxes.updatedAt))
    .limit(limit)
    .for("update", { of: sandboxes, skipLocked: true });
  return await tx
    .update(sandboxes)
    .set({ updatedAt: sql`now()` })
    .where(sql`${sandboxes.id} = ANY(ARRAY(${due}))`)
    .returning();
}

/**
 * Locks the pending deletes of a host until the end of the transaction. Call this before locking
 * the host's row: every move locks sandboxes first.
 */
export async function holdPendingDeletes(tx: Tx, hostId: HostId): Promise<SandboxRow[]> {
  return await tx
    .select()
    .from(sandboxes)
    .where(and(eq(sandboxes.hostId, hostId), isOneOf(sandboxes.state, "deleting")))
    .orderBy(asc(sandboxes.id))
    .for("update");
}
