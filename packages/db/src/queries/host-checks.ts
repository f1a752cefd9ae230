/** What a host is asked to show: nobody asks one that was retired. */
import { eq, sql } from "drizzle-orm";
import type { Tx } from "../database.ts";
import { hostChecks } from "../schema.ts";

export async function dropHostChecks(tx: Tx, hostId: string): Promise<void> {
  await tx.delete(hostChecks).where(eq(hostChecks.hostId, hostId));
}

/** In one statement: one that takes too long would never end. */
const MAX_PRUNED = 10_000;

/**
 * Those that came while their host was being retired, or that an agent which was not told yet has
 * made since. Returns how many.
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
