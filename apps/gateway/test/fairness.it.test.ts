/** A flood of one API key at a real database, and another key's request during it. */
import { setTimeout as sleep } from "node:timers/promises";
import { findApiKey, openDatabase, pingDatabase } from "@torpor/db";
import { type Databases, sharedPostgres } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createDatabaseTurns, inLane } from "../src/database-turns.ts";

const CONNECTIONS = 4;
const FLOOD = 60;

let server: Databases;
beforeAll(() => {
  server = sharedPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

/** The part of a flood that ended before another key's query and transaction. */
async function answeredBefore(isFair: boolean): Promise<number> {
  const fair = isFair ? { takeTurn: createDatabaseTurns(CONNECTIONS) } : {};
  const url = await server.database();
  const database = openDatabase(url, { maxConnections: CONNECTIONS, ...fair });
  let answered = 0;
  try {
    const flood = inLane("api-key 1", () =>
      Array.from({ length: FLOOD }, async () => {
        // Holds its connection.
        await database.db.transaction(async () => await sleep(20));
        answered += 1;
      }),
    );
    await inLane("api-key 2", async () => {
      // As rows and as arrays: the driver is called differently.
      await pingDatabase(database.db);
      expect(await findApiKey(database.db, "guess")).toBeUndefined();
      await database.db.transaction(pingDatabase);
    });
    const before = answered;
    await Promise.all(flood);
    return before;
  } finally {
    await database.close();
  }
}

test("another key's queries are answered long before the flood is; in one queue they were after it", async () => {
  expect(await answeredBefore(true)).toBeLessThan(FLOOD / 2);
  expect(await answeredBefore(false)).toBeGreaterThan(FLOOD / 2);
});
