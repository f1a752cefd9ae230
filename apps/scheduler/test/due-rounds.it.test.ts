/** Rounds that are left out, on a real database. */
import { acceptCreate, readDueWork, registerHost } from "@torpor/db";
import {
  aHost,
  aRequester,
  aSandbox,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
  until,
} from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { Statements } from "../../../tests/integration/support/statements.ts";
import { DueRounds } from "../src/due-rounds.ts";

const BY_THE_CLOCK = { isKicked: false };
const KICKED = { isKicked: true };

let server: Databases;
let database: TestDatabase;
let rounds: DueRounds;
beforeAll(() => {
  server = sharedPostgres();
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

/** A create that no scheduler has begun. */
const aWaitingCreate = async () => {
  const accepted = await acceptCreate(database.db, aSandbox({}), aRequester(database));
  expect(accepted.kind).toBe("accepted");
};

test("a fleet in which nothing happens has nothing to do", async () => {
  await registerHost(database.db, aHost("host-1"), 600_000);
  expect([...(await readDueWork(database.db))]).toEqual([]);
});

/** A round that has run once, as every round does when the scheduler has started. */
async function begunRound(work: Parameters<DueRounds["only"]>[0]) {
  const round = rounds.only(work, async () => ({ begun: 1 }));
  await round(BY_THE_CLOCK);
  return round;
}

test("each round runs once when the scheduler has started, and again where that fails", async () => {
  let fails = true;
  const restore = rounds.only("owedRestores", async () => {
    if (fails) throw new Error("the list cannot be read");
    return { restored: 0 };
  });
  await expect(restore(BY_THE_CLOCK)).rejects.toThrow("cannot be read");
  fails = false;
  expect(await restore(BY_THE_CLOCK)).toEqual({ restored: 0 });
  expect(await restore(BY_THE_CLOCK)).toEqual({});
});

test("from then on a round runs where there is work of its kind, and no other does", async () => {
  await aWaitingCreate();
  const [drive, expire] = await Promise.all([begunRound("waiting"), begunRound("overdue")]);
  expect(await drive(BY_THE_CLOCK)).toEqual({ begun: 1 });
  expect(await expire(BY_THE_CLOCK)).toEqual({});
});

test("rounds of the same moment share a read; one that is kicked reads anew", async () => {
  const drive = await begunRound("waiting");
  const statements = new Statements(database.db);
  await Promise.all([drive(BY_THE_CLOCK), drive(BY_THE_CLOCK), drive(BY_THE_CLOCK)]);
  expect(statements.seen).toHaveLength(1);
  await aWaitingCreate();
  expect(await drive(KICKED)).toEqual({ begun: 1 });
});

test("a read that fails fails its rounds, and soon there is another one", async () => {
  await aWaitingCreate();
  const drive = await begunRound("waiting");
  await database.sql`ALTER TABLE operations RENAME TO hidden`;
  await expect(drive(BY_THE_CLOCK)).rejects.toThrow(/operations/);
  await database.sql`ALTER TABLE hidden RENAME TO operations`;
  await until("a round by the clock finds the work", async () => {
    const result = await drive(BY_THE_CLOCK).catch(() => ({}));
    return "begun" in result;
  });
});
