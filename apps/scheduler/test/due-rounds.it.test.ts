/** Which rounds are left out, on a real database. */
import { acceptCreate, readDueWork, registerHost } from "@torpor/db";
import {
  aHost,
  aRequester,
  aSandbox,
  openTestDatabase,
  type PostgresServer,
  startPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { Statements } from "../../../tests/integration/support/statements.ts";
import { DueRounds } from "../src/due-rounds.ts";

const BY_THE_CLOCK = { isKicked: false };
const ASKED_FOR = { isKicked: true };

let server: PostgresServer;
let database: TestDatabase;
let rounds: DueRounds;
beforeAll(async () => {
  server = await startPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});
beforeEach(async () => {
  database = await openTestDatabase(server);
  rounds = new DueRounds(database.db);
});
afterEach(async () => {
  await database[Symbol.asyncDispose]();
});

/** A create that nobody has begun. */
const aWaitingCreate = async () => {
  const accepted = await acceptCreate(database.db, aSandbox({}), aRequester(database));
  expect(accepted.kind).toBe("accepted");
};

test("a fleet in which nothing happens has nothing to do", async () => {
  await registerHost(database.db, aHost("host-1"), 600_000);
  expect([...(await readDueWork(database.db))]).toEqual([]);
});

test("a round runs where there is work of its kind, and no other does", async () => {
  await aWaitingCreate();
  const ran: string[] = [];
  const note = (name: string) => async () => ({ [name]: ran.push(name) });
  expect(await rounds.only("waiting", note("drive"))(BY_THE_CLOCK)).toEqual({ drive: 1 });
  expect(await rounds.only("overdue", note("expire"))(BY_THE_CLOCK)).toEqual({});
  expect(ran).toEqual(["drive"]);
});

test("rounds of the same moment share a look; one that is asked for looks anew", async () => {
  const statements = new Statements(database.db);
  const drive = rounds.only("waiting", async () => ({ begun: 1 }));
  await Promise.all([drive(BY_THE_CLOCK), drive(BY_THE_CLOCK), drive(BY_THE_CLOCK)]);
  expect(statements.seen).toHaveLength(1);
  await aWaitingCreate();
  expect(await drive(ASKED_FOR)).toEqual({ begun: 1 });
});

test("a look that fails fails its rounds, and the next one is another", async () => {
  await database.sql`ALTER TABLE operations RENAME TO hidden`;
  const drive = rounds.only("waiting", async () => ({ begun: 1 }));
  await expect(drive(ASKED_FOR)).rejects.toThrow(/operations/);
  await database.sql`ALTER TABLE hidden RENAME TO operations`;
  await aWaitingCreate();
  expect(await drive(ASKED_FOR)).toEqual({ begun: 1 });
});
