import { drizzle } from "drizzle-orm/postgres-js";
import postgres from "postgres";
import type { Database } from "./database.ts";
import { reached } from "./database-url.ts";
import { limitedClient, type TakeTurn } from "./limited-client.ts";
import { NamedStatements } from "./named-statements.ts";
import * as schema from "./schema.ts";

export interface DatabaseHandle {
  db: Database;
  close(): Promise<void>;
}

export interface DatabaseOptions {
  maxConnections?: number;
  applicationName?: string;
  /**
   * Of one query or transaction, with the wait for a connection; 20 s. What takes longer fails with
   * ETIMEDOUT.
   */
  limitMs?: number;
  /** Who is next where more is asked for than there are connections; without: who came first. */
  takeTurn?: TakeTurn;
}

/** Longer than the server's own limit of a statement, which leaves the connection usable. */
const LIMIT_MS = 20_000;
const STATEMENT_LIMIT_MS = 15_000;
const CONNECT_LIMIT_S = 10;
const IDLE_LIMIT_S = 60;
/**
 * Between two attempts to connect. The driver's own grows to 20 s, for which a database that is
 * back would not be noticed.
 */
const RECONNECT_AFTER_S = 0.25;

/**
 * Opens a pool. Connections are made on first use; `close` waits at most 5 s for running queries.
 */
export function openDatabase(databaseUrl: string, options: DatabaseOptions = {}): DatabaseHandle {
  const { url, options: tls, namesStatements } = reached(databaseUrl);
  const client = limitedClient({
    limitMs: options.limitMs ?? LIMIT_MS,
    takeTurn: options.takeTurn ?? ((work) => work()),
    names: new NamedStatements(namesStatements),
    pool: postgres(url, {
      ...tls,
      max: options.maxConnections ?? 10,
      connect_timeout: CONNECT_LIMIT_S,
      idle_timeout: IDLE_LIMIT_S,
      backoff: () => RECONNECT_AFTER_S,
      prepare: namesStatements,
      // No column is an array: their types need not be asked for on each connection.
      fetch_types: false,
      onnotice: () => {},
      connection: {
        application_name: options.applicationName ?? "torpor",
        statement_timeout: STATEMENT_LIMIT_MS,
      },
    }),
  });
  return { db: drizzle(client.sql, { schema }), close: () => client.close() };
}
