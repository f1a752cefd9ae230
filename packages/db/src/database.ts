/** The database, or a transaction in it: what every query takes. */
import type { PgTransaction } from "drizzle-orm/pg-core";
import type { PostgresJsDatabase } from "drizzle-orm/postgres-js";
import type * as schema from "./schema.ts";

type Schema = typeof schema;
export type Database = PostgresJsDatabase<Schema>;
/** A database or a transaction in it. */
// oxlint-disable-next-line typescript/no-explicit-any -- drizzle's own generic parameters
export type Tx = PgTransaction<any, Schema, any> | Database;
