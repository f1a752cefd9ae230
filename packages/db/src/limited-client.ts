/**
 * The driver with a limit of its own for each query and transaction.
 *
 * The server ends what takes long (statement_timeout), and the end of a connection ends what waits
 * on it. What neither ends waits for a server that says nothing at all: stopped, or gone without
 * its network saying so. Then the query fails here, and new connections take the place of all old
 * ones, of which nobody knows what they still answer.
 */
import postgres from "postgres";
import { type NamedStatements, namedTransaction, unsafeNamed } from "./named-statements.ts";
import { sqlState } from "./transaction.ts";

const DRAIN_LIMIT_S = 5;

/** Runs a query or a transaction when it is its turn, and passes on what comes of it. */
export type TakeTurn = <T>(work: () => Promise<T>) => Promise<T>;

export interface LimitedClient {
  /** As much of the driver as drizzle uses. */
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
    // The very same options: drizzle has put its parsers into them.
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
        // Sent in a later microtask: until then it can still be told.
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

/** A pooler gave the transaction a connection that does not know what another one prepared. */
function explained(error: unknown): unknown {
  const code = sqlState(error);
  if (code !== INVALID_STATEMENT_NAME && code !== DUPLICATE_PREPARED_STATEMENT) return error;
  return new Error(
    "the pooler before the database does not keep prepared statements: add prepared_statements=off to " +
      "DATABASE_URL, or use PgBouncer 1.21 or later with max_prepared_statements",
    { cause: error },
  );
}
