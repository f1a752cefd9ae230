/** References of the database to the snapshot store. */
import type { SandboxId } from "@torpor/contracts";
import { and, asc, eq, inArray, isNotNull, isNull, lt, ne, or, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { isOneOf } from "../../literals.ts";
import { hosts, sandboxes, snapshots } from "../../schema.ts";
import type { SandboxRow } from "../sandboxes/sandbox-row.ts";
import { hasLease } from "../hosts/placement.ts";

export interface StoreReferences {
  sandboxId: SandboxId;
  /** Deleted for longer than the grace time. */
  isDeleted: boolean;
  /**
   * Entries that are needed: of snapshots that were not dropped, and of the newest stored one, from
   * which a lost run is restored.
   */
  storeKeys: string[];
  /** Generation of the newest stored snapshot; 0: none. */
  newestStored: number;
}

/** References of those of `sandboxIds` that the database knows. */
export async function findStoreReferences(
  db: Tx,
  sandboxIds: SandboxId[],
  graceMs: number,
): Promise<StoreReferences[]> {
  if (sandboxIds.length === 0) return [];
  const known = await db
    .select({
      sandboxId: sandboxes.id,
      isDeleted: sql<boolean>`${sandboxes.state} = 'deleted' AND ${sandboxes.updatedAt} < now() - ${`${graceMs} milliseconds`}::interval`,
    })
    .from(sandboxes)
    .where(inArray(sandboxes.id, sandboxIds));
  const { sandboxId, generation, storeKey } = snapshots;
  const isNewest = sql`${generation} = (SELECT max(stored.generation) FROM snapshots stored WHERE stored.sandbox_id = ${sandboxId} AND stored.store_key IS NOT NULL)`;
  const rows = await db
    .select({ sandboxId, generation, storeKey })
    .from(snapshots)
    .where(
      and(
        inArray(sandboxId, sandboxIds),
        isNotNull(storeKey),
        or(isNull(snapshots.droppedAt), isNewest),
      ),
    )
    .orderBy(asc(generation));
  const stored = Map.groupBy(rows, (row) => row.sandboxId);
  return known.map((sandbox) => {
    const needed = stored.get(sandbox.sandboxId) ?? [];
    return {
      ...sandbox,
      storeKeys: needed.flatMap((row) => row.storeKey ?? []),
      newestStored: needed.at(-1)?.generation ?? 0,
    };
  });
}

/**
 * Sandboxes that have been paused for `olderThanMs` on a host with a lease, and are not in the
 * store. On a draining host, the drain requests the copies, at its own pace.
 */
export async function listUnreplicated(
  db: Tx,
  olderThanMs: number,
  limit: number,
): Promise<SandboxRow[]> {
  const rows = await db
    .select({ sandbox: sandboxes })
    .from(sandboxes)
    .innerJoin(
      snapshots,
      and(
        eq(snapshots.sandboxId, sandboxes.id),
        isNull(snapshots.droppedAt),
        isNull(snapshots.storeKey),
      ),
    )
    .innerJoin(hosts, and(eq(hosts.id, sandboxes.hostId), hasLease, ne(hosts.state, "draining")))
    .where(
      and(
        isOneOf(sandboxes.state, "paused"),
        lt(sandboxes.updatedAt, sql`now() - ${`${olderThanMs} milliseconds`}::interval`),
      ),
    )
    .orderBy(asc(sandboxes.updatedAt))
    .limit(limit);
  return rows.map(({ sandbox }) => sandbox);
}
