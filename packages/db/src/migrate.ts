import { fileURLToPath } from "node:url";
import { drizzle } from "drizzle-orm/postgres-js";
import { migrate as applyMigrations } from "drizzle-orm/postgres-js/migrator";
import postgres from "postgres";
import { reached } from "./database-url.ts";
import { renewDatabaseUsers } from "./database-users.ts";

const MIGRATIONS = fileURLToPath(new URL("../migrations", import.meta.url));
/** Any constant: processes that start together take turns. */
const LOCK = 7_470_001;

/** Brings the database to the newest schema. Safe to call from several processes at once, and again. */
export async function migrate(databaseUrl: string): Promise<void> {
  const { url, options } = reached(databaseUrl);
  const client = postgres(url, { ...options, max: 1, connect_timeout: 10, onnotice: () => {} });
  try {
    await client`SELECT pg_advisory_lock(${LOCK})`;
    await applyMigrations(drizzle(client), { migrationsFolder: MIGRATIONS });
    await renewDatabaseUsers(client);
  } finally {
    await client.end({ timeout: 5 });
  }
}
