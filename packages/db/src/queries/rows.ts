/** Rows of tables that several files of queries read. */
import type { incarnations, snapshots } from "../schema.ts";

export type IncarnationRow = typeof incarnations.$inferSelect;
export type StoredSnapshotRow = typeof snapshots.$inferSelect;
