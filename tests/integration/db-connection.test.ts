/**
 * The end of a connection, whenever and however it comes, is an error of the connection's queries,
 * and never the end of the process, of the pool or of other clients' queries.
 */
import { connect, createServer, type Socket } from "node:net";
import {
  type Database,
  type DatabaseHandle,
  openDatabase,
  pingDatabase,
  type Tx,
} from "@torpor/db";
import { type Databases, sharedPostgres, until } from "@torpor/testkit";
import { type SQL, sql } from "drizzle-orm";
import { afterAll, beforeAll, expect, test } from "vitest";

let server: Databases;
beforeAll(() => {
  server = sharedPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

type Manner = "open" | "silent" | "shut";

/** Proxy to the database that a test can cut, and through which nothing may pass. */
async function wayTo(url: string) {
  const target = new URL(url);
  const port = Number(target.port);
  const clients = new Set<Socket>();
  let manner: Manner = "open";
  const proxy = createServer((client) => {
    client.on("error", () => {});
    clients.add(client);
    client.once("close", () => clients.delete(client));
    if (manner === "shut") client.end();
    if (manner !== "open") return;
    const upstream = connect(port, target.hostname);
    upstream.on("error", () => {});
    client.pipe(upstream).pipe(client);
    client.once("close", () => upstream.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const address = proxy.address();
  target.port = String(typeof address === "object" ? address?.port : 0);
  const cut = async (how: (client: Socket) => void) => {
    for (const client of clients) how(client);
    await until("both ends know it", () => clients.size === 0);
  };
  return {
    url: target.href,
    /** Sets the manner of connections from now on. */
    let: (next: Manner) => (manner = next),
    end: () => cut((client) => client.end()),
    reset: () => cut((client) => client.resetAndDestroy()),
    /** Existing connections carry nothing any more, and do not end. */
    freeze: () => {
      for (const client of clients) client.unpipe().pause();
    },
    [Symbol.asyncDispose]: async () => {
      for (const client of clients) client.destroy();
      await new Promise((resolve) => proxy.close(resolve));
    },
  };
}

const opened = (
  url: string,
  options: { maxConnections: number; limitMs?: number },
): DatabaseHandle & AsyncDisposable => {
  const handle = openDatabase(url, options);
  return { ...handle, [Symbol.asyncDispose]: () => handle.close() };
};
const worksAgain = (db: Database) =>
  until("it is connected again", () =>
    pingDatabase(db).then(
      () => true,
      () => false,
    ),
  );
const insert = (db: Tx, value: number) => db.execute(sql`INSERT INTO seen VALUES (${value})`);

test.each(["end", "reset"] as const)(
  "S39: %s of a connection inside a transaction fails that transaction, and the next one has a new connection",
  async (how) => {
    await using way = await wayTo(await server.database());
    await using handle = opened(way.url, { maxConnections: 1 });
    const late = Promise.withResolvers<unknown[]>();
    const failed = handle.db.transaction(async (tx) => {
      await pingDatabase(tx);
      await way[how]();
      // With parameters and without: the driver writes a moment after the call, to a connection
      // that is gone by then.
      const asked = [
        pingDatabase(tx),
        tx.execute(sql`SELECT ${1}::int`),
        tx.execute(sql`SELECT ${2}::int`),
      ];
      late.resolve(await Promise.all(asked.map((query) => query.catch((error: unknown) => error))));
    });
    await expect(failed).rejects.toSatisfy(isEndOfConnection);
    for (const error of await late.promise) expect(error).toSatisfy(isEndOfConnection);
    await worksAgain(handle.db);
  },
);

test("S39: what a transaction asks after its connection was lost is not done outside of it, on the connection that came after", async () => {
  await using way = await wayTo(await server.database());
  await using handle = opened(way.url, { maxConnections: 1 });
  await handle.db.execute(sql`CREATE TABLE seen (value integer)`);
  const late = Promise.withResolvers<unknown>();
  const failed = handle.db.transaction(async (tx) => {
    await insert(tx, 1);
    await way.reset();
    await worksAgain(handle.db);
    late.resolve(await insert(tx, 2).catch((error: unknown) => error));
  });
  await expect(failed).rejects.toSatisfy(isEndOfConnection);
  expect(await late.promise).toSatisfy(isEndOfConnection);
  expect(await handle.db.execute(sql`SELECT value FROM seen`)).toHaveLength(0);
});

test.each(["end", "reset"] as const)(
  "S39: %s of every connection: what is asked again at once is answered, each by its own answer",
  async (how) => {
    await using way = await wayTo(await server.database());
    // The limit is too long to help: only the end of a connection ends its queries.
    await using handle = opened(way.url, { maxConnections: 3, limitMs: 600_000 });
    const rows: [asked: number, answer: unknown][] = [];
    const ask = async (db: Tx, value: number, query: SQL) => {
      const [row] = await db.execute(query);
      rows.push([value, row?.["value"]]);
    };
    const kinds = [
      // Several queries without parameters share a connection.
      (value: number) =>
        ask(handle.db, value, sql.raw(`SELECT ${value} AS value FROM pg_sleep(0.01)`)),
      (value: number) => ask(handle.db, value, sql`SELECT ${value}::int AS value`),
      (value: number) =>
        handle.db.transaction((tx) =>
          Promise.all(
            [1, 2].map((add) => ask(tx, value + add, sql`SELECT ${value + add}::int AS value`)),
          ),
        ),
    ];
    for (let round = 0; round < 10; round += 1) {
      const asked = Array.from({ length: 12 }, async (_, at) => {
        const again = async (): Promise<unknown> =>
          await kinds[at % kinds.length]?.(at * 10).catch(again);
        await again();
      });
      for (let turn = 0; turn < round * 2; turn += 1)
        await new Promise((resolve) => setImmediate(resolve));
      await way[how]();
      await Promise.all(asked);
    }
    expect(rows.filter(([value, answer]) => value !== answer)).toEqual([]);
  },
);

test.each(["end", "reset"] as const)(
  "S39: %s of connections with several queries each: all fail at once, and what is asked again is answered",
  async (how) => {
    const url = await server.database();
    await using way = await wayTo(url);
    await using handle = opened(way.url, { maxConnections: 2, limitMs: 600_000 });
    await using watch = opened(url, { maxConnections: 1 });
    await Promise.all([pingDatabase(handle.db), pingDatabase(handle.db)]);
    const errors: unknown[] = [];
    const asked = Array.from({ length: 6 }, async (_, at) => {
      const first = handle.db.execute(sql.raw(`SELECT ${at} AS value FROM pg_sleep(600)`));
      // Right after the failure: the other connection may still look healthy, but is about to
      // close.
      const again = async (error: unknown): Promise<{ value?: unknown }[]> => {
        errors.push(error);
        return await handle.db.execute(sql.raw(`SELECT ${at} AS value`)).catch(again);
      };
      return (await first.catch(again))[0]?.value;
    });
    await until("both connections are busy", async () => {
      const [row] = await watch.db.execute(
        sql`SELECT count(*)::int AS busy FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(600)'`,
      );
      return row?.["busy"] === 2;
    });
    await way[how]();
    expect(await Promise.all(asked)).toEqual(asked.map((_, at) => at));
    for (const error of errors) expect(error).toSatisfy(isEndOfConnection);
  },
);

test("S39: a server that ends each new connection at once fails the query that waits for it", async () => {
  await using way = await wayTo(await server.database());
  await using handle = opened(way.url, { maxConnections: 1 });
  way.let("shut");
  await expect(pingDatabase(handle.db)).rejects.toSatisfy(isEndOfConnection);
  way.let("open");
  await worksAgain(handle.db);
});

test.each(["silent", "open"] as const)(
  "S39: what a silent server never answers fails after its limit; new connections (%s at first) take over",
  async (manner) => {
    await using way = await wayTo(await server.database());
    await using handle = opened(way.url, { maxConnections: 2, limitMs: 3_000 });
    await Promise.all([pingDatabase(handle.db), pingDatabase(handle.db)]);
    way.freeze();
    way.let(manner);
    const asked = [
      pingDatabase(handle.db),
      handle.db.transaction(pingDatabase),
      handle.db.execute(sql`SELECT ${1}::int`),
      pingDatabase(handle.db),
    ];
    const settled = await Promise.allSettled(asked);
    expect(settled).toMatchObject(asked.map(() => ({ status: "rejected" })));
    expect(
      settled.flatMap((one) => (one.status === "rejected" ? codes(one.reason) : [])),
    ).toContain("ETIMEDOUT");
    way.let("open");
    await worksAgain(handle.db);
  },
);

/** Codes of an error and of its causes; drizzle wraps the driver's error. */
function codes(error: unknown): unknown[] {
  return error instanceof Error ? [(error as { code?: unknown }).code, ...codes(error.cause)] : [];
}

function isEndOfConnection(error: unknown): boolean {
  return codes(error).some(
    (code) => code === "CONNECTION_CLOSED" || code === "ECONNRESET" || code === "EPIPE",
  );
}
