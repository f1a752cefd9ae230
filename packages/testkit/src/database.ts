/**
 * The database of one test: accessed by the product's queries, and by plain SQL for what the
 * product never does.
 */
import { type Database, findApiKey, openDatabase, seedApiKey } from "@torpor/db";
import postgres from "postgres";
import type { Databases } from "./postgres.ts";

const API_KEY = "test-key";

export interface TestDatabase extends AsyncDisposable {
  url: string;
  db: Database;
  sql: postgres.Sql;
  organizationId: number;
}

export async function openTestDatabase(server: Databases): Promise<TestDatabase> {
  const url = await server.database();
  await seedApiKey(url, { organization: "test", apiKey: API_KEY });
  const handle = openDatabase(url, { maxConnections: 20 });
  const sql = postgres(url, { max: 2, onnotice: () => {} });
  const owner = await findApiKey(handle.db, API_KEY);
  if (owner === undefined) throw new Error("the seeded API key is not there");
  return {
    url,
    db: handle.db,
    sql,
    organizationId: owner.organizationId,
    [Symbol.asyncDispose]: async () => {
      await sql.end({ timeout: 5 });
      await handle.close();
    },
  };
}
