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
   * Time limit of one query or transaction, including the wait for a connection; default 20 s. A
   * query that takes longer fails with ETIMEDOUT.
   */
  limitMs?: number;
  /** Order of the queries that wait for a connection; default: first come, first served. */
  takeTurn?: TakeTurn;
}

/** Longer than statement_timeout, which ends a statement and leaves the connection usable. */
const LIMIT_MS = 20_000;
const STATEMENT_LIMIT_MS = 15_000;
const CONNECT_LIMIT_S = 10;
const IDLE_LIMIT_S = 60;
/**
 * Sleep between two attempts to connect. The driver's default grows to 20 s, which would delay the
 * recovery after an outage.
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
      // No column is an array, so the driver need not fetch array types for each connection.
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
