/**
 * The second barrier between organizations, behind the filters of the queries: row-level security.
 *
 * Each statement of a gateway begins with a comment that names its organization, and policies
 * (database-users.ts) compare rows with that comment. The comment is part of the statement's text,
 * so it costs no round trip, needs no transaction and works behind a pooler. Input of a client is
 * in parameters, and cannot change how the text begins. A statement without the comment sees no
 * rows.
 */
import { drizzle } from "drizzle-orm/postgres-js";
import type postgres from "postgres";
import type { Database } from "./database.ts";
import * as schema from "./schema.ts";

/** The mark that the policies look for. */
export const EVERY_ORGANIZATION = "/* every organization */";
/** Regular expression of Postgres; its group is the id of the organization. */
export const OF_ORGANIZATION = String.raw`^/\* organization ([0-9]+) \*/`;

/** Scoped handles of one database handle; when there are more, all are dropped and made again. */
const MAX_SCOPES = 1_000;

type Unsafe = Pick<postgres.Sql, "unsafe">;
type Client = Unsafe & Pick<postgres.Sql, "options" | "begin">;
type Transaction = Unsafe & Pick<postgres.TransactionSql, "savepoint">;

/** The client without a mark, and the scoped handles that were made from it. */
interface Base {
  client: Client;
  scopes: Map<string, Database>;
}
const bases = new WeakMap<Database, Base>();

/** A handle that reads, changes and inserts only rows of that organization. */
export function forOrganization(db: Database, organizationId: number): Database {
  return marked(db, `/* organization ${organizationId} */`);
}

/** For operators, and for the edge, which learns the organization from the sandbox's row. */
export const forEveryOrganization = (db: Database): Database => marked(db, EVERY_ORGANIZATION);

function marked(db: Database, mark: string): Database {
  const base = baseOf(db);
  // A transaction keeps the scope that it began with.
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
