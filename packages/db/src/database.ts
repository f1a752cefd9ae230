/** Type of the first parameter of every query: the database, or a transaction in it. */
import type { PgTransaction } from "drizzle-orm/pg-core";
import type { PostgresJsDatabase } from "drizzle-orm/postgres-js";
import type * as schema from "./schema.ts";

type Schema = typeof schema;
export type Database = PostgresJsDatabase<Schema>;
/** A database or a transaction in it. */
// oxlint-disable-next-line typescript/no-explicit-any -- drizzle's own generic parameters
export type Tx = PgTransaction<any, Schema, any> | Database;
