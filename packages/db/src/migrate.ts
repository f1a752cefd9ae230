import { fileURLToPath } from "node:url";
import { drizzle } from "drizzle-orm/postgres-js";
import { migrate as applyMigrations } from "drizzle-orm/postgres-js/migrator";
import postgres from "postgres";
import { reached } from "./database-url.ts";
import { renewDatabaseUsers } from "./database-users.ts";

const MIGRATIONS = fileURLToPath(new URL("../migrations", import.meta.url));
/** Arbitrary constant: processes that start together migrate one after another. */
const LOCK = 7_470_001;
const AT_ONCE = 1_000;

/** Migrates the database to the newest schema. Concurrent and repeated calls are safe. */
export async function migrate(databaseUrl: string): Promise<void> {
  const { url, options } = reached(databaseUrl);
  const client = postgres(url, { ...options, max: 1, connect_timeout: 10, onnotice: () => {} });
  try {
    await client`SELECT pg_advisory_lock(${LOCK})`;
    await applyMigrations(drizzle(client), { migrationsFolder: MIGRATIONS });
    await renewDatabaseUsers(client);
    await clearDeletedEnvVars(client);
  } finally {
    await client.end({ timeout: 5 });
  }
}

/**
 * Clears the environment variables of sandboxes that were deleted by an older version; a delete now
 * clears them itself. Not a migration, which would lock the table for the whole time.
 */
async function clearDeletedEnvVars(client: postgres.Sql): Promise<void> {
  for (;;) {
    const cleared = await client`
      UPDATE sandboxes SET env_vars = '{}' WHERE id IN (
        SELECT id FROM sandboxes
        WHERE state IN ('deleting', 'deleted') AND env_vars <> '{}' LIMIT ${AT_ONCE})`;
    if (cleared.count < AT_ONCE) return;
  }
}
