import { type Column, type SQL, sql } from "drizzle-orm";

/**
 * The column has one of these values of the code, as text of the statement: an index for some of
 * them is found whether the plan is made for this call or for all.
 */
export function isOneOf<T extends string>(
  column: Column & { _: { data: T } },
  ...values: T[]
): SQL {
  if (!values.every((value) => /^\w+$/.test(value)))
    throw new Error(`one of ${values.join(", ")} is no plain word`);
  return sql`${column} IN (${sql.raw(values.map((value) => `'${value}'`).join(", "))})`;
}
