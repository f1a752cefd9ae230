import type { SandboxId } from "@torpor/contracts";
import { and, desc, eq, isNotNull, isNull } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { snapshots } from "../../schema.ts";

export type StoredSnapshotRow = typeof snapshots.$inferSelect;

/** Newest snapshot of the sandbox that was not dropped. */
export async function findSnapshot(
  db: Tx,
  sandboxId: SandboxId,
): Promise<StoredSnapshotRow | undefined> {
  const [row] = await db
    .select()
    .from(snapshots)
    .where(and(eq(snapshots.sandboxId, sandboxId), isNull(snapshots.droppedAt)))
    .orderBy(desc(snapshots.generation))
    .limit(1);
  return row;
}

/** Newest snapshot of the sandbox in the store, whether or not the sandbox has run since. */
export async function findStoredSnapshot(
  db: Tx,
  sandboxId: SandboxId,
): Promise<StoredSnapshotRow | undefined> {
  const [row] = await db
    .select()
    .from(snapshots)
    .where(and(eq(snapshots.sandboxId, sandboxId), isNotNull(snapshots.storeKey)))
    .orderBy(desc(snapshots.generation))
    .limit(1);
  return row;
}
