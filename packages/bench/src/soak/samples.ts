/** The readings of a soak: of each program, of Postgres and of NATS. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Component, Fleet } from "@torpor/fleet";
import type postgres from "postgres";
import { readStreams } from "../measure/counters.ts";
import { processTree } from "../measure/cpu.ts";
import type { Allowed } from "./fit.ts";

/** One number that may grow; unique by `of` and `what`. */
export interface Series {
  /** Source of the number: `gateway`, `postgres`. */
  of: string;
  what: keyof typeof KINDS;
}

/** Unit, and allowed growth after the warm-up; or the reason why it is not judged. */
export const KINDS = {
  heap: { unit: "MiB", allowed: { rise: 2, share: 0.05 } },
  "outside heap": { unit: "MiB", allowed: { rise: 8, share: 0.1 } },
  resident: { unit: "MiB", because: "the heap's room, which grows by steps, is in it" },
  private: { unit: "MiB", allowed: { rise: 8, share: 0.1 } },
  "open files": { unit: "", allowed: { rise: 3, share: 0.05 } },
  connections: { unit: "", allowed: { rise: 3, share: 0.05 } },
  "outbox waiting": { unit: "rows", allowed: { rise: 5, share: 0 } },
  "outbox kept": { unit: "rows", because: "kept for a time" },
  "stream waiting": { unit: "messages", allowed: { rise: 5, share: 0 } },
  "stream kept": { unit: "messages", because: "kept for a time" },
} as const satisfies Record<
  string,
  { unit: string } & ({ allowed: Allowed } | { because: string })
>;

export type Reading = Series & { value: number };

const MIB = 1_024 ** 2;
/** This stream keeps its messages for three days; the others empty. */
const KEPT_STREAM = "EVENTS";
const PROGRAMS = new Set(["gateway", "scheduler", "node-agent"]);

export async function readAll(
  fleet: Fleet,
  sql: postgres.Sql,
  heapDir: string,
): Promise<Reading[]> {
  const [database, streams] = await Promise.all([ofPostgres(sql), readStreams(fleet)]);
  const programs = fleet.state.components.flatMap((component) => ofProgram(component, heapDir));
  const messages = Object.entries(streams).map(([name, { messages: value }]): Reading => {
    const what = name === KEPT_STREAM ? "stream kept" : "stream waiting";
    return { of: name, what, value };
  });
  return [...programs, ...database, ...messages];
}

function ofProgram({ name, role, process: identity }: Component, heapDir: string): Reading[] {
  if (identity === undefined) return [];
  if (role === "postgres") {
    const value = processTree(identity.pid).reduce((sum, pid) => sum + privateMib(pid), 0);
    return [{ of: name, what: "private", value }];
  }
  if (role === "nats") {
    const value = privateMib(identity.pid);
    return [{ of: name, what: "private", value }, openFiles(name, identity.pid)];
  }
  if (!PROGRAMS.has(role)) return [];
  return [...memoryOf(name, join(heapDir, `${identity.pid}.json`)), openFiles(name, identity.pid)];
}

/** Empty before the program's first report, and for programs that have no reporter. */
function memoryOf(of: string, file: string): Reading[] {
  let said: NodeJS.MemoryUsage;
  try {
    said = JSON.parse(readFileSync(file, "utf8")) as NodeJS.MemoryUsage;
  } catch {
    return [];
  }
  return [
    { of, what: "heap", value: said.heapUsed / MIB },
    { of, what: "outside heap", value: (said.rss - said.heapTotal) / MIB },
    { of, what: "resident", value: said.rss / MIB },
  ];
}

/**
 * Private memory: server processes of Postgres share most of theirs. 0 if the process has ended.
 */
function privateMib(pid: number): number {
  try {
    const kib = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return Number(kib ?? 0) / 1_024;
  } catch {
    return 0;
  }
}

function openFiles(of: string, pid: number): Reading {
  try {
    return { of, what: "open files", value: readdirSync(`/proc/${pid}/fd`).length };
  } catch (cause) {
    throw new Error(`${of} has ended in the middle of the soak: see its log`, { cause });
  }
}

async function ofPostgres(sql: postgres.Sql): Promise<Reading[]> {
  const [row] = await sql`
    SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
      count(*) FILTER (WHERE published_at IS NULL AND refused_because IS NULL) AS waiting,
      count(*) AS kept
    FROM outbox`;
  const read = (what: Series["what"], column: string): Reading => {
    return { of: "postgres", what, value: Number(row?.[column]) };
  };
  return [
    read("connections", "connections"),
    read("outbox waiting", "waiting"),
    read("outbox kept", "kept"),
  ];
}
