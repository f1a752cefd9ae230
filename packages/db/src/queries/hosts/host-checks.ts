/** Sandboxes that a host has to report; a retired host has none. */
import type { HostId } from "@torpor/contracts";
import { eq, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { hostChecks } from "../../schema.ts";

export async function dropHostChecks(tx: Tx, hostId: HostId): Promise<void> {
  await tx.delete(hostChecks).where(eq(hostChecks.hostId, hostId));
}

/** Rows per statement: a statement over the time limit would fail in every round. */
const MAX_PRUNED = 10_000;

/**
 * Deletes checks of retired hosts: made during the retirement, or later by an agent that did not
 * know of it yet. Returns how many.
 */
export async function pruneHostChecks(db: Tx): Promise<number> {
  const rows = await db.execute(sql`
    DELETE FROM host_checks WHERE (host_id, sandbox_id) IN (
      SELECT host_checks.host_id, host_checks.sandbox_id FROM hosts
      JOIN host_checks ON host_checks.host_id = hosts.id
      WHERE hosts.state = 'retired' LIMIT ${sql.raw(String(MAX_PRUNED))})
    RETURNING 1`);
  return rows.length;
}
