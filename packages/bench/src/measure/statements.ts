/**
 * Counts of statements, from the log of Postgres, which has no pg_stat_statements here. Logging
 * costs time, so it has a separate window in which nothing else is measured. Statements inside a
 * function of the database do not count: they are no round trips.
 */
import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import type { Fleet } from "@torpor/fleet";
import type postgres from "postgres";

/** Count per program: `torpor-gateway`. */
export type StatementCounts = Record<string, number>;

const PREFIX = "bench|";
/** Time for every server process to read the configuration, and to write its last line. */
const QUIET_MS = 300;
/** Name of this program's own connections, which are not counted. */
export const OWN_NAME = "torpor-bench";

export interface StatementWindow {
  end(): Promise<StatementCounts>;
}

export async function beginCounting(fleet: Fleet, sql: postgres.Sql): Promise<StatementWindow> {
  const { log } = fleet.component("postgres");
  await configure(sql, "SET");
  await sleep(QUIET_MS);
  const from = await sizeOf(log);
  return {
    end: async () => {
      const to = await sizeOf(log);
      await configure(sql, "RESET");
      return countStatements(await readPart(log, from, to));
    },
  };
}

const SETTINGS = {
  log_statement: "'all'",
  log_line_prefix: `'${PREFIX}%a|'`,
  log_parameter_max_length: "0",
};

async function configure(sql: postgres.Sql, how: "SET" | "RESET"): Promise<void> {
  for (const [name, value] of Object.entries(SETTINGS)) {
    const statement = how === "SET" ? `SET ${name} = ${value}` : `RESET ${name}`;
    await sql.unsafe(`ALTER SYSTEM ${statement}`);
  }
  await sql`SELECT pg_reload_conf()`;
}

/** Every statement writes one such line when it begins, with either protocol. */
export function countStatements(log: string): StatementCounts {
  const counts: StatementCounts = {};
  for (const [, name = ""] of log.matchAll(/^bench\|([^|\n]*)\|LOG: {2}(?:statement|execute)\b/gm))
    if (name !== OWN_NAME) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

async function sizeOf(file: string): Promise<number> {
  await using handle = await open(file, "r");
  return (await handle.stat()).size;
}

async function readPart(file: string, from: number, to: number): Promise<string> {
  await using handle = await open(file, "r");
  const { buffer } = await handle.read(Buffer.alloc(to - from), 0, to - from, from);
  return buffer.toString("utf8");
}
