/**
 * The database through a pooler that gives a connection away after each transaction: many clients
 * share few connections, and each gets its own results. Real PgBouncer.
 */
import {
  acceptRequest,
  type Database,
  type DatabaseHandle,
  inTransaction,
  insertOutbox,
  openDatabase,
  pingDatabase,
  relayOutbox,
  type Tx,
} from "@torpor/db";
import { subjects } from "@torpor/contracts";
import {
  aRequester,
  keepsNoStatements,
  makeSandbox,
  openTestDatabase,
  type PgBouncer,
  startPgBouncer,
  startPostgres,
  type TestDatabase,
  until,
} from "@torpor/testkit";
import { sql } from "drizzle-orm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

/**
 * Connections of the pooler to the server. Each of the two services may have five times as many to
 * the pooler.
 */
const SERVER_CONNECTIONS = 2;
const CLIENTS_EACH = 10;

const noNewOne = await keepsNoStatements();
if (noNewOne !== undefined)
  process.stderr.write(`with prepared statements nothing is tried: ${noNewOne}\n`);

const POOLERS = [
  {
    name: "keeps no prepared statements, and programs are told",
    keepsStatements: false,
    whyNot: undefined,
  },
  { name: "keeps prepared statements", keepsStatements: true, whyNot: noNewOne },
];

for (const { name, keepsStatements, whyNot } of POOLERS)
  describe.skipIf(whyNot !== undefined)(`a pooler that ${name}`, () => {
    throughAPooler(keepsStatements);
  });

function throughAPooler(keepsStatements: boolean): void {
  /** Everything that was started, also if a later start failed. */
  const started = new AsyncDisposableStack();
  let database: TestDatabase;
  let pooler: PgBouncer;
  let services: DatabaseHandle[];
  beforeAll(async () => {
    const server = started.use(await startPostgres());
    database = started.use(await openTestDatabase(server));
    pooler = started.use(
      await startPgBouncer(database.url, { poolSize: SERVER_CONNECTIONS, keepsStatements }),
    );
    services = ["torpor-gateway", "torpor-scheduler"].map((applicationName) =>
      openDatabase(pooler.through(database.url), { applicationName, maxConnections: CLIENTS_EACH }),
    );
    for (const service of services) started.defer(() => service.close());
  });
  afterAll(async () => {
    await started.disposeAsync();
  });

  /** Runs `body` `count` times at once, through both services. */
  async function atOnce<T>(
    count: number,
    body: (db: Database, at: number) => Promise<T>,
  ): Promise<T[]> {
    return await Promise.all(
      Array.from({ length: count }, async (_, at) => {
        const service = services[at % services.length];
        if (service === undefined) throw new Error("there are two services");
        return await body(service.db, at);
      }),
    );
  }

  test("each query and each transaction gets its own answers, over few connections", async () => {
    const ask = async (db: Tx, number: number) =>
      (await db.execute(sql`SELECT ${number}::int AS number`))[0]?.["number"];
    const answers = await atOnce(100, (db, at) =>
      at % 3 === 0
        ? db.transaction(async (tx) => [await ask(tx, at), await ask(tx, at)])
        : Promise.all([ask(db, at), ask(db, at)]),
    );
    expect(answers).toEqual(answers.map((_, at) => [at, at]));
    const seen =
      await database.sql`SELECT pid FROM pg_stat_activity WHERE application_name IN ('torpor-gateway', 'torpor-scheduler')`;
    expect(seen.length).toBeGreaterThan(0);
    expect(seen.length).toBeLessThanOrEqual(SERVER_CONNECTIONS);
  });

  test("what is rolled back is gone, and no setting or lock of one client is left for the next", async () => {
    await database.sql`CREATE TABLE seen (value integer)`;
    const kept = await atOnce(20, (db, at) =>
      inTransaction<boolean, boolean>(db, async (tx, rollback) => {
        await tx.execute(sql`INSERT INTO seen VALUES (${at})`);
        return at % 2 === 0 ? true : rollback(false);
      }),
    );
    expect(kept).toEqual(kept.map((_, at) => at % 2 === 0));
    const rows = await database.sql<{ value: number }[]>`SELECT value FROM seen ORDER BY value`;
    expect(rows.map(({ value }) => value)).toEqual(Array.from({ length: 10 }, (_, at) => at * 2));
    const locks = await database.sql`SELECT locktype FROM pg_locks WHERE locktype = 'advisory'`;
    expect(locks).toHaveLength(0);
  });

  test("statements end by the server's own limit, as they do without a pooler", async () => {
    const limits = await atOnce(
      8,
      async (db) => (await db.execute(sql`SHOW statement_timeout`))[0]?.["statement_timeout"],
    );
    expect(new Set(limits)).toEqual(new Set(["15s"]));
  });

  test("a request that many make at once is one operation, and each row of the outbox is published by one relay", async () => {
    const { id } = await makeSandbox(database, "running");
    const accepted = await atOnce(20, (db) => acceptRequest(db, id, "pause", aRequester(database)));
    const operations = accepted.map((one) =>
      one.kind === "accepted" ? one.operation.id : one.kind,
    );
    expect(new Set(operations).size).toBe(1);

    await database.sql`DELETE FROM outbox`;
    const message = { subject: subjects.intent("pause"), payload: {} };
    await inTransaction(database.db, (tx) =>
      insertOutbox(
        tx,
        Array.from({ length: 300 }, () => message),
      ),
    );
    await database.sql`UPDATE outbox SET created_at = now() - interval '1 minute'`;
    const published: number[] = [];
    const relay = async (db: Database) => {
      for (let taken = 1; taken > 0;) {
        const round = await relayOutbox(
          db,
          { kind: "intent", limit: 20, olderThanMs: 0 },
          async (rows) => {
            const ids = rows.map(({ id }) => id);
            published.push(...ids);
            return { published: ids, refused: [] };
          },
        );
        ({ taken } = round);
      }
    };
    await atOnce(8, relay);
    // A relay that finds all rows taken by other relays ends; the others publish the rows.
    expect(published).toHaveLength(300);
    expect(new Set(published).size).toBe(300);
  });

  test("S39: kill -9 of the pooler fails what is under way, and all goes on when it is back", async () => {
    const sleeping = atOnce(6, (db) =>
      db.execute(sql`SELECT pg_sleep(30)`).then(
        () => "answered",
        () => "failed",
      ),
    );
    await until(
      "they are under way",
      async () =>
        (
          await database.sql`SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND pid <> pg_backend_pid()`
        ).length > 0,
    );
    await pooler.stop();
    expect(new Set(await sleeping)).toEqual(new Set(["failed"]));
    await pooler.start();
    for (const { db } of services)
      await until("it is connected again", () =>
        pingDatabase(db).then(
          () => true,
          () => false,
        ),
      );
  });
}
