/** The end of a connection is an error of its queries, whenever it comes and however: never the end of the process, of the pool, or of what others ask. */
import { connect, createServer, type Socket } from "node:net";
import { type Database, type DatabaseHandle, openDatabase, pingDatabase } from "@torpor/db";
import { type PostgresServer, startPostgres, until } from "@torpor/testkit";
import { sql } from "drizzle-orm";
import { afterAll, beforeAll, expect, test } from "vitest";

let server: PostgresServer;
beforeAll(async () => {
  server = await startPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

type Manner = "open" | "silent" | "shut";

/** A way to the database that a test can cut, and where nothing may come through. */
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
    /** Of connections made from now on. */
    let: (next: Manner) => (manner = next),
    end: () => cut((client) => client.end()),
    reset: () => cut((client) => client.resetAndDestroy()),
    /** The connections that there are carry nothing any more, and do not end. */
    freeze: () => {
      for (const client of clients) client.unpipe().pause();
    },
    [Symbol.asyncDispose]: async () => {
      for (const client of clients) client.destroy();
      await new Promise((resolve) => proxy.close(resolve));
    },
  };
}

const opened = (url: string, options: { maxConnections: number; limitMs?: number }): DatabaseHandle & AsyncDisposable => {
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
const insert = (db: Pick<Database, "execute">, value: number) => db.execute(sql`INSERT INTO seen VALUES (${value})`);

test.each(["end", "reset"] as const)(
  "S39: %s of a connection inside a transaction fails that transaction, and the next one has a new connection",
  async (how) => {
    await using way = await wayTo(await server.database());
    await using handle = opened(way.url, { maxConnections: 1 });
    const late = Promise.withResolvers<unknown[]>();
    const failed = handle.db.transaction(async (tx) => {
      await pingDatabase(tx);
      await way[how]();
      // With parameters and without: the driver writes a moment after it was asked, to a connection that is gone by then.
      const asked = [pingDatabase(tx), tx.execute(sql`SELECT ${1}::int`), tx.execute(sql`SELECT ${2}::int`)];
      late.resolve(await Promise.all(asked.map((query) => query.catch((error: unknown) => error))));
    });
    await expect(failed).rejects.toMatchObject({ code: "CONNECTION_CLOSED" });
    for (const error of await late.promise) expect(error).toMatchObject({ cause: { code: "CONNECTION_CLOSED" } });
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
  await expect(failed).rejects.toMatchObject({ code: "CONNECTION_CLOSED" });
  expect(await late.promise).toMatchObject({ cause: { code: "CONNECTION_CLOSED" } });
  expect(await handle.db.execute(sql`SELECT value FROM seen`)).toHaveLength(0);
});

test("S39: queries and transactions that wait when every connection is cut all end, and none gets the answer of another", async () => {
  await using way = await wayTo(await server.database());
  await using handle = opened(way.url, { maxConnections: 3 });
  const ask = async (db: Pick<Database, "execute">, value: number) => {
    const [row] = await db.execute<{ value: number }>(sql`SELECT ${value}::int AS value`);
    expect(row).toEqual({ value });
    return value;
  };
  for (let round = 0; round < 12; round += 1) {
    const asked = Array.from({ length: 12 }, async (_, at) => {
      if (at % 2 === 0) return await ask(handle.db, at);
      return await handle.db.transaction((tx) => Promise.all([ask(tx, at), ask(tx, at + 100)]));
    });
    const settled = Promise.allSettled(asked);
    for (let turn = 0; turn < round; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    await (round % 2 === 0 ? way.end() : way.reset());
    for (const result of await settled) if (result.status === "rejected") expect(String(result.reason)).not.toContain("AssertionError");
    await worksAgain(handle.db);
  }
});

test("S39: a server that ends each new connection at once fails the query that waits for it", async () => {
  await using way = await wayTo(await server.database());
  await using handle = opened(way.url, { maxConnections: 1 });
  way.let("shut");
  await expect(pingDatabase(handle.db)).rejects.toMatchObject({ cause: { code: "CONNECTION_CLOSED" } });
  way.let("open");
  await worksAgain(handle.db);
});

test.each(["silent", "open"] as const)(
  "S39: what a silent server never answers fails after its limit; new connections (%s at first) take over",
  async (manner) => {
    await using way = await wayTo(await server.database());
    await using handle = opened(way.url, { maxConnections: 2, limitMs: 500 });
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
    expect(JSON.stringify(settled.map((one) => one.status === "rejected" && codes(one.reason)))).toContain("ETIMEDOUT");
    way.let("open");
    await worksAgain(handle.db);
  },
);

function codes(error: unknown): unknown[] {
  return error instanceof Error ? [(error as { code?: unknown }).code, ...codes(error.cause)] : [];
}
