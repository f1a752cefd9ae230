/**
 * Postgres is killed again and again under queries and transactions: each of them ends, with its
 * own result or an error, and all continue when the server is back.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Database, openDatabase, type Tx } from "@torpor/db";
import { type PostgresServer, startPostgres, until } from "@torpor/testkit";
import { sql } from "drizzle-orm";
import { afterAll, beforeAll, expect, test } from "vitest";

const KILLS = 8;
/** Fewer than clients, so that some clients wait for a connection when the server is killed. */
const CONNECTIONS = 8;
const CLIENTS_PER_KIND = 4;
/** Too long to help: only the end of a connection ends its queries. */
const NO_LIMIT_MS = 600_000;

let server: PostgresServer;
beforeAll(async () => {
  server = await startPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

let asked = 0;
const foreign: unknown[] = [];

/** Any result but the query's own number was meant for another query. */
async function ask(
  db: Tx,
  query = (number: number) => sql`SELECT ${number}::int AS number`,
): Promise<void> {
  const number = (asked += 1);
  const rows = await db.execute(query(number));
  if (rows[0]?.["number"] !== number) foreign.push({ asked: number, got: rows });
}

const insert = (db: Tx, pair: number) => db.execute(sql`INSERT INTO halves VALUES (${pair})`);

/** Inserts two rows or none, and does something between them. */
const pairOf = (between: (tx: Tx) => Promise<unknown>) => (db: Database) =>
  db.transaction(async (tx) => {
    const pair = (asked += 1);
    await insert(tx, pair);
    await between(tx);
    await insert(tx, pair);
  });

const KINDS: ((db: Database) => Promise<unknown>)[] = [
  (db) => ask(db),
  // Several queries without parameters share a connection.
  (db) => ask(db, (number) => sql.raw(`SELECT ${number} AS number`)),
  pairOf((tx) => ask(tx)),
  pairOf(() => sleep(3)),
  pairOf(() => new Promise((resolve) => setImmediate(resolve))),
  pairOf((tx) => Promise.allSettled([ask(tx), ask(tx), ask(tx)])),
];

test("S39: kill -9 of Postgres under load leaves no query unanswered, no connection lost and no transaction in parts", async () => {
  const handle = openDatabase(await server.database(), {
    maxConnections: CONNECTIONS,
    limitMs: NO_LIMIT_MS,
  });
  await handle.db.execute(sql`CREATE TABLE halves (pair integer)`);
  const stopping = new AbortController();
  const clients = KINDS.flatMap((kind) =>
    Array.from({ length: CLIENTS_PER_KIND }, () => startClient(handle.db, kind, stopping.signal)),
  );
  const allServed = async (times: number) => {
    const goals = clients.map(({ served }) => served() + times);
    await until("each client is served again", () =>
      clients.every(({ served }, at) => served() >= (goals[at] ?? 0)),
    );
  };
  try {
    await allServed(1);
    for (let kill = 0; kill < KILLS; kill += 1) {
      await sleep(Math.random() * 100);
      await server.stop("SIGKILL");
      await restart();
      // Twice: the first query may have been sent before the kill.
      await allServed(2);
    }
    stopping.abort();
    await Promise.all(clients.map(({ ended }) => ended));
    expect(foreign).toEqual([]);
    expect(
      await handle.db.execute(sql`SELECT pair FROM halves GROUP BY pair HAVING count(*) <> 2`),
    ).toHaveLength(0);
  } finally {
    stopping.abort();
    await handle.close();
  }
});

/** Sends queries without a break while they succeed, and at once or soon again after an error. */
function startClient(db: Database, kind: (db: Database) => Promise<unknown>, signal: AbortSignal) {
  let served = 0;
  const loop = async () => {
    while (!signal.aborted) {
      try {
        await kind(db);
        served += 1;
      } catch {
        if (Math.random() < 0.5) await sleep(5);
      }
    }
  };
  return { served: () => served, ended: loop() };
}

/**
 * Postgres refuses to start until the killed process is reaped and its children have released its
 * memory.
 */
const restart = () =>
  until("Postgres is back", () =>
    server.start().then(
      () => true,
      () => false,
    ),
  );
