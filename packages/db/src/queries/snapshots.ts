/** What the snapshot store holds for whom. */
import { and, asc, eq, inArray, isNotNull, isNull, lt, ne, or, sql } from "drizzle-orm";
import type { Tx } from "../database.ts";
import { isOneOf } from "../literals.ts";
import { hosts, sandboxes, snapshots } from "../schema.ts";
import type { SandboxRow } from "./move-sandbox.ts";
import { hasLease } from "./placement.ts";

export interface StoreReferences {
  sandboxId: string;
  /** Deleted for longer than the grace time. */
  isDeleted: boolean;
  /**
   * Entries that are needed: of snapshots that are still there, and the newest stored one, which a
   * lost host's sandbox is brought back from.
   */
  storeKeys: string[];
  /** Of the newest stored one; 0: none. */
  newestStored: number;
}

/** For those of `sandboxIds` that are known. */
export async function findStoreReferences(
  db: Tx,
  sandboxIds: string[],
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
 * Sandboxes that stand paused for so long on a host that lives, and are not in the store. A
 * draining host is asked by its drain, at the drain's pace.
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
