/** The end of a connection is an error of its query, whenever it comes: never the end of the process. */
import { connect, createServer, type Socket } from "node:net";
import { openDatabase, pingDatabase } from "@torpor/db";
import { type PostgresServer, startPostgres, until } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

let server: PostgresServer;
beforeAll(async () => {
  server = await startPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

/** A way to the database that a test can cut. */
async function cuttable(url: string) {
  const target = new URL(url);
  const port = Number(target.port);
  const clients = new Set<Socket>();
  const proxy = createServer((client) => {
    const upstream = connect(port, target.hostname);
    for (const socket of [client, upstream]) socket.on("error", () => {});
    client.pipe(upstream).pipe(client);
    clients.add(client);
    client.once("close", () => clients.delete(client));
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  const address = proxy.address();
  target.port = String(typeof address === "object" ? address?.port : 0);
  return {
    url: target.href,
    cut: async () => {
      for (const client of clients) client.end();
      await until("both ends know it", () => clients.size === 0);
    },
    close: () => proxy.close(),
  };
}

test("S39: a connection that closes inside a transaction fails that transaction, and the next one has a new connection", async () => {
  const way = await cuttable(await server.database());
  const handle = openDatabase(way.url, { maxConnections: 1 });
  try {
    const late = Promise.withResolvers<unknown>();
    const failed = handle.db.transaction(async (tx) => {
      await pingDatabase(tx);
      await way.cut();
      // The driver writes a moment after it was asked, to a connection that is gone by then.
      late.resolve(await pingDatabase(tx).catch((error: unknown) => error));
    });
    await expect(failed).rejects.toMatchObject({ code: "CONNECTION_CLOSED" });
    expect(await late.promise).toMatchObject({ cause: { code: "CONNECTION_CLOSED" } });
    await until("it is connected again", () =>
      pingDatabase(handle.db).then(
        () => true,
        () => false,
      ),
    );
  } finally {
    await handle.close();
    way.close();
  }
});
