/** Rows that the database has returned as JSON. */
import { type Column, getTableColumns } from "drizzle-orm";
import type { PgTable } from "drizzle-orm/pg-core";

const COLUMNS = new Map<PgTable, [string, Column][]>();

/** Renames columns to the schema's names; missing columns stay missing. Undefined for null. */
export function rowFrom<Row>(
  table: PgTable,
  json: Record<string, unknown> | null,
): Row | undefined {
  if (json === null) return undefined;
  const columns = COLUMNS.get(table) ?? Object.entries<Column>(getTableColumns(table));
  COLUMNS.set(table, columns);
  const row: Record<string, unknown> = {};
  for (const [key, column] of columns) {
    const value = json[column.name];
    if (value === undefined) continue;
    row[key] = value === null ? null : column.mapFromDriverValue(value);
  }
  return row as Row;
}
