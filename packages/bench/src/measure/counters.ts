/**
 * Counters of Postgres and NATS. A server process of Postgres publishes its counts once a second,
 * so a reading lags by up to that much; windows therefore begin and end under the same load.
 */
import type { Fleet } from "@torpor/fleet";
import type postgres from "postgres";

export interface DatabaseCounters {
  commits: number;
  rollbacks: number;
  walFsyncs: number;
  walBytes: number;
  /** Messages stored in streams: each is synced to disk before it is acknowledged. */
  natsStored: number;
  natsMessages: number;
}

const NATS_LIMIT_MS = 10_000;

export async function readCounters(fleet: Fleet, sql: postgres.Sql): Promise<DatabaseCounters> {
  const [database, ...nats] = await Promise.all([
    ofPostgres(sql),
    ...monitorsOf(fleet).map(ofNats),
  ]);
  const sum = (name: "stored" | "messages") => nats.reduce((all, one) => all + one[name], 0);
  return { ...database, natsStored: sum("stored"), natsMessages: sum("messages") };
}

/** Monitoring addresses of the fleet's servers on this machine. */
const monitorsOf = (fleet: Fleet) =>
  fleet.state.components.flatMap(({ role, healthUrl }) =>
    role === "nats" && healthUrl !== undefined ? [new URL(healthUrl).origin] : [],
  );

/** Contents of each stream by name, for a fleet with one server. */
export async function readStreams(fleet: Fleet): Promise<Record<string, { messages: number }>> {
  const streams = (await Promise.all(monitorsOf(fleet).map(streamsOf))).flat();
  return Object.fromEntries(streams.map(({ name, state }) => [name, state]));
}

async function ofPostgres(sql: postgres.Sql) {
  const [row] = await sql`
    SELECT xact_commit AS commits, xact_rollback AS rollbacks,
      (SELECT coalesce(sum(fsyncs), 0) FROM pg_stat_io WHERE object = 'wal') AS wal_fsyncs,
      (SELECT wal_bytes FROM pg_stat_wal) AS wal_bytes
    FROM pg_stat_database WHERE datname = current_database()`;
  const { commits, rollbacks, wal_fsyncs: walFsyncs, wal_bytes: walBytes } = row ?? {};
  return {
    commits: Number(commits),
    rollbacks: Number(rollbacks),
    walFsyncs: Number(walFsyncs),
    walBytes: Number(walBytes),
  };
}

interface Stream {
  name: string;
  state: { last_seq: number; messages: number };
}

interface Jsz {
  account_details?: { stream_detail?: Stream[] }[];
}

async function ofNats(monitor: string): Promise<{ stored: number; messages: number }> {
  const { in_msgs: messages } = (await read(monitor, "/varz")) as { in_msgs: number };
  const streams = await streamsOf(monitor);
  return { messages, stored: streams.reduce((sum, { state }) => sum + state.last_seq, 0) };
}

async function streamsOf(monitor: string): Promise<Stream[]> {
  const { account_details: accounts = [] } = (await read(
    monitor,
    "/jsz?streams=1&accounts=1",
  )) as Jsz;
  return accounts.flatMap(({ stream_detail: all = [] }) => all);
}

async function read(monitor: string, path: string): Promise<unknown> {
  const answer = await fetch(`${monitor}${path}`, { signal: AbortSignal.timeout(NATS_LIMIT_MS) });
  return await answer.json();
}
