import { sql } from "drizzle-orm";
import type { Tx } from "../database.ts";

/** Resolves when the database has replied. */
export async function pingDatabase(db: Tx): Promise<void> {
  await db.execute(sql`SELECT 1`);
}

/** Why the database does not reply, in one line; undefined when it does. */
export async function databaseProblem(db: Tx): Promise<string | undefined> {
  try {
    await pingDatabase(db);
    return undefined;
  } catch (error) {
    let deepest = error;
    while (deepest instanceof Error && deepest.cause instanceof Error) deepest = deepest.cause;
    return deepest instanceof Error ? deepest.message : String(deepest);
  }
}
