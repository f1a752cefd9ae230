import type { SandboxId } from "@torpor/contracts";
import { and, desc, eq, isNotNull, isNull, type SQL } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { snapshots } from "../../schema.ts";

export type StoredSnapshotRow = typeof snapshots.$inferSelect;

/** Newest snapshot of the sandbox that was not dropped. */
export const findSnapshot = (db: Tx, sandboxId: SandboxId) =>
  findNewest(db, sandboxId, isNull(snapshots.droppedAt));

/** Newest snapshot of the sandbox in the store, whether or not the sandbox has run since. */
export const findStoredSnapshot = (db: Tx, sandboxId: SandboxId) =>
  findNewest(db, sandboxId, isNotNull(snapshots.storeKey));

async function findNewest(
  db: Tx,
  sandboxId: SandboxId,
  condition: SQL,
): Promise<StoredSnapshotRow | undefined> {
  const [row] = await db
    .select()
    .from(snapshots)
    .where(and(eq(snapshots.sandboxId, sandboxId), condition))
    .orderBy(desc(snapshots.generation))
    .limit(1);
  return row;
}
