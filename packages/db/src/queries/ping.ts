import { sql } from "drizzle-orm";
import type { Tx } from "../client.ts";

/** Resolves when the database has answered anything at all. */
export async function pingDatabase(db: Tx): Promise<void> {
  await db.execute(sql`SELECT 1`);
}
