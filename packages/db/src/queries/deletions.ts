/** Deleted sandboxes whose host owes the clean-up: `deleting`. */
import { LEASED_STATES } from "@torpor/state-machine";
import { and, asc, eq, inArray, lt, sql } from "drizzle-orm";
import type { Tx } from "../database.ts";
import { isOneOf } from "../literals.ts";
import { hosts, sandboxes } from "../schema.ts";
import type { SandboxRow } from "./move-sandbox.ts";

/**
 * Those of which their hosts were last told longer than `olderThanMs` ago, longest first; from now
 * on they count as told. Lost hosts are left out: they hear nothing, and are told when they are
 * back. Two that ask at once get different ones.
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
 * Of one host; they change no more until the transaction ends. To be called before the host's row
 * is locked: sandboxes first is the order of all moves.
 */
export async function holdPendingDeletes(tx: Tx, hostId: string): Promise<SandboxRow[]> {
  return await tx
    .select()
    .from(sandboxes)
    .where(and(eq(sandboxes.hostId, hostId), isOneOf(sandboxes.state, "deleting")))
    .orderBy(asc(sandboxes.id))
    .for("update");
}
