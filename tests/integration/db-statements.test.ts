/** Prepared statements that the server keeps, and the setting that turns them off. */
import { forOrganization, openDatabase } from "@torpor/db";
import {
  openTestDatabase,
  type PgBouncer,
  type Databases,
  startPgBouncer,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { sql } from "drizzle-orm";
import { afterAll, beforeAll, expect, test } from "vitest";

const started = new AsyncDisposableStack();
let server: Databases;
let database: TestDatabase;
let pooler: PgBouncer;
beforeAll(async () => {
  server = started.use(sharedPostgres());
  database = started.use(await openTestDatabase(server));
  pooler = started.use(await startPgBouncer(database.url, { poolSize: 2 }));
});
afterAll(async () => {
  await started.disposeAsync();
});

/** Prepared statements on the one connection of a pool, after `ask`. */
async function keptBy(
  url: string,
  ask: (db: ReturnType<typeof openDatabase>["db"]) => Promise<void>,
) {
  const handle = openDatabase(url, { maxConnections: 1 });
  try {
    await ask(handle.db);
    const rows = await handle.db.execute(sql.raw("SELECT statement FROM pg_prepared_statements"));
    return rows.map((row) => String(row["statement"]));
  } finally {
    await handle.close();
  }
}

test("a statement is parsed once for each connection, inside of transactions too", async () => {
  const kept = await keptBy(database.url, async (db) => {
    for (let number = 0; number < 3; number += 1) {
      await db.execute(sql`SELECT ${number}::int AS outside`);
      await db.transaction(async (tx) => {
        await tx.execute(sql`SELECT ${number}::int AS inside`);
        await tx.transaction(
          async (inner) => await inner.execute(sql`SELECT ${number}::int AS savepoint`),
        );
      });
    }
  });
  for (const what of ["outside", "inside", "savepoint"])
    expect(kept.filter((text) => text.endsWith(`AS ${what}`))).toHaveLength(1);
});

test("organizations do not take the room of statements that all need, and no connection keeps any number", async () => {
  const kept = await keptBy(database.url, async (db) => {
    for (let organization = 1; organization <= 350; organization += 1)
      await forOrganization(db, organization).execute(sql`SELECT ${organization}::int AS own`);
    await db.execute(sql`SELECT ${1}::int AS everybody`);
  });
  expect(kept.filter((text) => text.endsWith("AS own"))).toHaveLength(300);
  expect(kept.filter((text) => text.endsWith("AS everybody"))).toHaveLength(1);
});

test("prepared_statements=off: none is kept", async () => {
  const kept = await keptBy(`${database.url}?prepared_statements=off`, async (db) => {
    await db.execute(sql`SELECT ${1}::int AS number`);
  });
  expect(kept.filter((text) => text.includes("AS number"))).toEqual([]);
  expect(() => openDatabase(`${database.url}?prepared_statements=maybe`)).toThrow(
    /it is on or off/,
  );
});

test("a pooler that keeps none is named in the error, with the setting", async () => {
  const handle = openDatabase(pooler.plainly(database.url), { maxConnections: 8 });
  try {
    const ask = () =>
      Promise.all(
        Array.from({ length: 8 }, () =>
          handle.db.transaction((tx) => tx.execute(sql`SELECT ${1}::int AS one`)),
        ),
      );
    // The pooler chooses the connection of a transaction, so the error may come late.
    const until = async (): Promise<unknown> => {
      for (;;) {
        const error = await ask().then(
          () => undefined,
          (cause: unknown) => cause,
        );
        if (error !== undefined) return error;
      }
    };
    const error = (await until()) as Error;
    expect(error.message).toContain("add prepared_statements=off to DATABASE_URL");
  } finally {
    await handle.close();
  }
});
