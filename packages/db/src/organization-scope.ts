/**
 * The second wall between organizations, below the filters of the queries: row-level security.
 *
 * Each statement of a gateway begins with a comment that says for whom it is, and policies
 * (database-users.ts) compare rows with that. The comment is part of the statement's text, so that
 * it costs no round trip, needs no transaction, and is right behind a pooler; what a client sends
 * is in parameters, and cannot change how the text begins. Without one, no row is there.
 */
import { drizzle } from "drizzle-orm/postgres-js";
import type postgres from "postgres";
import type { Database } from "./database.ts";
import * as schema from "./schema.ts";

/** As policies look for it. */
export const EVERY_ORGANIZATION = "/* every organization */";
/** A regular expression of Postgres; its group is the id. */
export const OF_ORGANIZATION = String.raw`^/\* organization ([0-9]+) \*/`;

/** Of one gateway at work; they are made again when there were too many. */
const MAX_SCOPES = 1_000;

type Unsafe = Pick<postgres.Sql, "unsafe">;
type Client = Unsafe & Pick<postgres.Sql, "options" | "begin">;
type Transaction = Unsafe & Pick<postgres.TransactionSql, "savepoint">;

/** Without a mark, and what has been made of it. */
interface Base {
  client: Client;
  scopes: Map<string, Database>;
}
const bases = new WeakMap<Database, Base>();

/** Rows of that organization only: no others are seen, changed or made. */
export function forOrganization(db: Database, organizationId: number): Database {
  return marked(db, `/* organization ${organizationId} */`);
}

/** For operators, and for the edge, which learns from the row whose sandbox it is. */
export const forEveryOrganization = (db: Database): Database => marked(db, EVERY_ORGANIZATION);

function marked(db: Database, mark: string): Database {
  const base = baseOf(db);
  // A transaction stays what it began as.
  if (base === undefined) return db;
  const known = base.scopes.get(mark);
  if (known !== undefined) return known;
  const client = markStatements(base.client, mark) as unknown as postgres.Sql;
  const scoped = drizzle(client, { schema });
  bases.set(scoped, base);
  if (base.scopes.size >= MAX_SCOPES) base.scopes.clear();
  base.scopes.set(mark, scoped);
  return scoped;
}

function baseOf(db: Database): Base | undefined {
  const known = bases.get(db);
  if (known !== undefined) return known;
  const { $client: client } = db as Partial<{ $client: Client }>;
  if (client === undefined) return undefined;
  const base = { client, scopes: new Map<string, Database>() };
  bases.set(db, base);
  return base;
}

function markStatements(client: Client, mark: string) {
  const unsafeOf =
    (sql: Unsafe): Unsafe["unsafe"] =>
    (text, ...rest) =>
      sql.unsafe(`${mark} ${text}`, ...rest);
  const inTransaction = (tx: Transaction) => ({
    options: client.options,
    unsafe: unsafeOf(tx),
    savepoint: (body: (sql: unknown) => unknown) =>
      tx.savepoint((inner) => body(inTransaction(inner))),
  });
  return {
    options: client.options,
    unsafe: unsafeOf(client),
    begin: (body: (sql: unknown) => unknown) => client.begin((tx) => body(inTransaction(tx))),
  };
}
