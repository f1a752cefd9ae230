/** The audit log in the database: entries are added and read, and nothing else. */
import { insertAuditEntries, listAuditEntries, pruneAuditEntries } from "@torpor/db";
import {
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

let server: Databases;
let database: TestDatabase;
beforeAll(async () => {
  server = sharedPostgres();
  database = await openTestDatabase(server);
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

const DAY_MS = 24 * 3_600_000;
const entry = (given: object = {}) => ({
  occurredAt: new Date(),
  requestedBy: "api-key:1",
  organizationId: 1,
  address: "10.0.0.1",
  forwardedFor: null,
  method: "POST",
  path: "/v1/sandboxes",
  resource: null,
  status: 201,
  code: null,
  requestId: "req_1",
  ...given,
});
const filter = (given: object = {}) => ({
  requestedBy: undefined,
  organizationId: undefined,
  limit: 100,
  beforeId: undefined,
  ...given,
});
const rows = async () =>
  (await database.sql`SELECT count(*)::int AS rows FROM audit_entries`)[0]?.["rows"];

test("entries are neither changed nor removed, one by one or all at once", async () => {
  await insertAuditEntries(database.db, [entry(), entry({ requestedBy: null })]);
  await insertAuditEntries(database.db, []);
  const { sql } = database;
  await expect(sql`UPDATE audit_entries SET requested_by = 'somebody else'`).rejects.toThrow(
    /not changed/,
  );
  await expect(sql`DELETE FROM audit_entries`).rejects.toThrow(/after 365 days only/);
  await expect(sql`TRUNCATE audit_entries`).rejects.toThrow(/not changed/);
  expect(await rows()).toBe(2);
});

test("those of more than a year are removed, and no others", async () => {
  const before = await rows();
  const ages = [1, 300, 365, 367, 1_000];
  const at = (days: number) => entry({ occurredAt: new Date(Date.now() - days * DAY_MS) });
  await insertAuditEntries(database.db, ages.map(at));
  expect(await pruneAuditEntries(database.db)).toBe(2);
  expect(await rows()).toBe(before + 3);
  expect(await pruneAuditEntries(database.db)).toBe(0);
});

test("they are listed newest first, by who asked and by organization, in pages", async () => {
  const requestIds = Array.from({ length: 5 }, (_, at) => `req_${at}`);
  const of = (requestedBy: string, organizationId: number) =>
    requestIds.map((requestId) => entry({ requestId, requestedBy, organizationId }));
  await insertAuditEntries(database.db, [...of("api-key:8", 80), ...of("api-key:9", 90)]);
  const list = async (given: object) => await listAuditEntries(database.db, filter(given));
  const newestFirst = requestIds.toReversed();
  for (const given of [{ requestedBy: "api-key:8" }, { organizationId: 90 }])
    expect((await list(given)).map(({ requestId }) => requestId)).toEqual(newestFirst);
  const first = await list({ requestedBy: "api-key:9", limit: 2 });
  const rest = await list({ requestedBy: "api-key:9", beforeId: first.at(-1)?.id });
  expect([...first, ...rest].map(({ requestId }) => requestId)).toEqual(newestFirst);
});
