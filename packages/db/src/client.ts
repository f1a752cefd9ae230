import { drizzle, type PostgresJsDatabase } from "drizzle-orm/postgres-js";
import type { PgTransaction } from "drizzle-orm/pg-core";
import postgres from "postgres";
import * as schema from "./schema.ts";

type Schema = typeof schema;
export type Database = PostgresJsDatabase<Schema>;
/** A database or a transaction in it. */
// oxlint-disable-next-line typescript/no-explicit-any -- drizzle's own generic parameters, of no interest here
export type Tx = PgTransaction<any, Schema, any> | Database;

export interface DatabaseHandle {
  db: Database;
  close(): Promise<void>;
}

/** Opens a pool. Connections are made on first use; `close` waits at most 5 s for running queries. */
export function openDatabase(url: string, options: { maxConnections?: number; applicationName?: string } = {}): DatabaseHandle {
  const client = postgres(url, {
    max: options.maxConnections ?? 10,
    connect_timeout: 10,
    idle_timeout: 60,
    onnotice: () => {},
    connection: { application_name: options.applicationName ?? "torpor", statement_timeout: 15_000 },
  });
  return { db: drizzle(client, { schema }), close: () => client.end({ timeout: 5 }) };
}
