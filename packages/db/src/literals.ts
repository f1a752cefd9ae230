import { type Column, type SQL, sql } from "drizzle-orm";

/**
 * The column has one of these constants. The constants are literals in the statement's text, so
 * that Postgres can use a partial index in a custom plan and in a generic plan.
 */
export function isOneOf<T extends string>(
  column: Column & { _: { data: T } },
  ...values: T[]
): SQL {
  if (!values.every((value) => /^\w+$/.test(value)))
    throw new Error(`one of ${values.join(", ")} is no plain word`);
  return sql`${column} IN (${sql.raw(values.map((value) => `'${value}'`).join(", "))})`;
}
