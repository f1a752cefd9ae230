import type { Database, Tx } from "./database.ts";

/** Carries a result out of a transaction that is to be rolled back. */
class Rollback extends Error {
  readonly result: unknown;
  constructor(result: unknown) {
    super("rolled back on purpose");
    this.result = result;
  }
}

/**
 * Runs `body` in a transaction. `rollback(value)` rolls the transaction back, and `value` is
 * returned.
 */
export async function inTransaction<Kept, Dropped = never>(
  db: Tx,
  body: (tx: Tx, rollback: (value: Dropped) => never) => Promise<Kept>,
): Promise<Kept | Dropped> {
  try {
    return await db.transaction((tx) =>
      body(tx, (value) => {
        throw new Rollback(value);
      }),
    );
  } catch (error) {
    if (error instanceof Rollback) return error.result as Dropped;
    throw error;
  }
}

/** Runs all queries of `read` on one snapshot of the database, whatever is written meanwhile. */
export async function readSnapshot<T>(db: Database, read: (tx: Tx) => Promise<T>): Promise<T> {
  return await db.transaction(read, { isolationLevel: "repeatable read", accessMode: "read only" });
}

/** SQLSTATE of a driver error, through drizzle's wrapper. */
export function sqlState(error: unknown): string | undefined {
  for (let current = error; current instanceof Error; current = current.cause) {
    const code = (current as { code?: unknown }).code;
    if (typeof code === "string" && /^[0-9A-Z]{5}$/.test(code)) return code;
  }
  return undefined;
}

export const UNIQUE_VIOLATION = "23505";
const CHECK_VIOLATION = "23514";
const DATA_EXCEPTION = "22";

/** True when Postgres can never store the value: too large, invalid text, or against a CHECK. */
export function isRefusedValue(error: unknown): boolean {
  const state = sqlState(error);
  return state === CHECK_VIOLATION || state?.startsWith(DATA_EXCEPTION) === true;
}

/** Name of the violated constraint or index, where the error has one. */
export function constraintName(error: unknown): string | undefined {
  for (let current = error; current instanceof Error; current = current.cause) {
    const name = (current as { constraint_name?: unknown }).constraint_name;
    if (typeof name === "string") return name;
  }
  return undefined;
}
