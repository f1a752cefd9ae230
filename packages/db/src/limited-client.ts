/**
 * The Postgres driver with its own time limit for each query and transaction.
 *
 * The server ends long statements (statement_timeout), and the end of a connection ends the queries
 * on it. Neither helps against a server that sends nothing at all: a stopped process, or a network
 * that drops packets. Then the query fails here, and new connections replace all old ones, because
 * a late reply could still arrive on an old one.
 */
import postgres from "postgres";
import { type NamedStatements, namedTransaction, unsafeNamed } from "./named-statements.ts";
import { sqlState } from "./transaction.ts";

const DRAIN_LIMIT_S = 5;

/** Runs a query or a transaction when its turn comes, and returns the result. */
export type TakeTurn = <T>(work: () => Promise<T>) => Promise<T>;

export interface LimitedClient {
  /** The part of the driver that drizzle uses. */
  sql: postgres.Sql;
  close(): Promise<void>;
}

interface LimitedClientOptions {
  pool: postgres.Sql;
  limitMs: number;
  takeTurn: TakeTurn;
  names: NamedStatements;
}

export function limitedClient({
  pool: first,
  limitMs,
  takeTurn,
  names,
}: LimitedClientOptions): LimitedClient {
  let pool = first;
  const replaced = new Set<Promise<void>>();
  const replace = (silent: postgres.Sql) => {
    // Several queries of one pool fail together.
    if (silent !== pool) return;
    // The same options object, because drizzle has put its parsers into that object.
    pool = postgres(silent.options as unknown as postgres.Options<Record<string, never>>);
    const ended = silent.end({ timeout: DRAIN_LIMIT_S }).finally(() => replaced.delete(ended));
    replaced.add(ended);
  };
  const limited = async <T>(asked: PromiseLike<T>, of: postgres.Sql): Promise<T> => {
    let timer: NodeJS.Timeout | undefined;
    const silence = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        replace(of);
        reject(
          Object.assign(new Error(`the database did not answer within ${limitMs / 1000} s`), {
            code: "ETIMEDOUT",
          }),
        );
      }, limitMs);
    });
    try {
      return await Promise.race([asked, silence]);
    } catch (error) {
      throw explained(error);
    } finally {
      clearTimeout(timer);
    }
  };
  const sql = {
    options: first.options,
    unsafe: (...args: Parameters<postgres.Sql["unsafe"]>) => {
      let query: ReturnType<postgres.Sql["unsafe"]> | undefined;
      let wantsArrays = false;
      const rows = takeTurn(async () => {
        query = unsafeNamed(pool, names)(...args);
        if (wantsArrays) void query.values();
        return await limited(query, pool);
      });
      const values = () => {
        wantsArrays = true;
        // The driver sends the query in a later microtask, so the format can still change.
        void query?.values();
        return rows;
      };
      return Object.assign(rows, { values });
    },
    begin: (body: (sql: unknown) => unknown) =>
      takeTurn(
        async () =>
          await limited(
            pool.begin((tx) => body(namedTransaction(tx, names, pool.options))),
            pool,
          ),
      ),
  };
  return {
    sql: sql as unknown as postgres.Sql,
    close: async () => {
      await Promise.all([pool.end({ timeout: DRAIN_LIMIT_S }), ...replaced]);
    },
  };
}

const INVALID_STATEMENT_NAME = "26000";
const DUPLICATE_PREPARED_STATEMENT = "42P05";

/** A pooler ran a statement on a connection that did not prepare the statement. */
function explained(error: unknown): unknown {
  const code = sqlState(error);
  if (code !== INVALID_STATEMENT_NAME && code !== DUPLICATE_PREPARED_STATEMENT) return error;
  return new Error(
    "the pooler before the database does not keep prepared statements: add prepared_statements=off to " +
      "DATABASE_URL, or use PgBouncer 1.21 or later with max_prepared_statements",
    { cause: error },
  );
}
