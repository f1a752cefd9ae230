/**
 * Database users of gateways and schedulers: the rows that a gateway's statement sees, and what
 * each user may not do at all.
 */
import { type SandboxId, unverifiedSandboxId } from "@torpor/contracts";
import {
  acceptCreate,
  acceptRequest,
  createOrganization,
  type Database,
  findSandboxRow,
  forEveryOrganization,
  forOrganization,
  listEvents,
  migrate,
  openDatabase,
  patchSandbox,
  setUpDatabaseUsers,
  sqlState,
} from "@torpor/db";
import {
  aRequester,
  aSandbox,
  makeSandbox,
  openTestDatabase,
  type PgBouncer,
  type PostgresServer,
  startPgBouncer,
  startPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { sql } from "drizzle-orm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const started = new AsyncDisposableStack();
let server: PostgresServer;
let database: TestDatabase;
/** Connection as the gateway's user, with no organization set. */
let gateway: Database;
let scheduler: Database;
let theirs: { organizationId: number; sandboxId: SandboxId };
let ours: { organizationId: number; sandboxId: SandboxId };
const PASSWORDS = { gateway: "it's a 'secret'", scheduler: "s" };
const as = (user: "gateway" | "scheduler", url = database.url) => {
  const login = `torpor_${user}:${encodeURIComponent(PASSWORDS[user])}`;
  const handle = openDatabase(url.replace(/\/\/[^@]+@/, `//${login}@`), { maxConnections: 4 });
  started.defer(() => handle.close());
  return handle.db;
};
beforeAll(async () => {
  server = started.use(await startPostgres());
  database = started.use(await openTestDatabase(server));
  await setUpDatabaseUsers(database.url, PASSWORDS);
  gateway = as("gateway");
  scheduler = as("scheduler");
  const other = await createOrganization(database.db, "other");
  if (other === undefined) throw new Error("it is there already");
  const own = async (organizationId: number) => {
    const { id: sandboxId } = await makeSandbox({ ...database, organizationId }, "running");
    return { organizationId, sandboxId };
  };
  [theirs, ours] = [await own(other.id), await own(database.organizationId)];
});
afterAll(async () => {
  await started.disposeAsync();
});

/** Ids of the sandboxes that a query without any filter sees. */
async function seen(db: Pick<Database, "execute">): Promise<unknown[]> {
  const rows = await db.execute(sql`SELECT id FROM sandboxes ORDER BY id`);
  return rows.map(({ id }) => id);
}
const count = async (db: Database, table: string) =>
  Number((await db.execute(sql.raw(`SELECT count(*) FROM ${table}`)))[0]?.["count"]);
const stateOf = async (asked: Promise<unknown>) =>
  await asked.then(
    () => undefined,
    (error: unknown) => sqlState(error),
  );
const FORBIDDEN = "42501";

describe("a gateway's statement", () => {
  test("sees rows of the organization that it is for, all of them if it is for every one, and without a word none", async () => {
    const both = [theirs.sandboxId, ours.sandboxId].toSorted();
    expect(await seen(forOrganization(gateway, ours.organizationId))).toEqual([ours.sandboxId]);
    expect(await seen(forEveryOrganization(gateway))).toEqual(both);
    expect(await seen(gateway)).toEqual([]);
    // The newest organization replaces an earlier one.
    const every = forEveryOrganization(gateway);
    expect(await seen(forOrganization(every, theirs.organizationId))).toEqual([theirs.sandboxId]);
    for (const table of ["operations", "sandbox_events"]) {
      expect(await count(gateway, table)).toBe(0);
      const [one, all] = [forOrganization(gateway, ours.organizationId), every];
      expect(await count(one, table)).toBeLessThan(await count(all, table));
      expect(await count(one, table)).toBeGreaterThan(0);
    }
  });

  test("stays for that organization in a transaction, in one within it, and whatever is asked in between", async () => {
    const db = forOrganization(gateway, ours.organizationId);
    const looks = await Promise.all(
      Array.from({ length: 20 }, (_, at) =>
        at % 2 === 0
          ? db.transaction(async (tx) => [
              await seen(tx),
              await tx.transaction(async (inner) => await seen(inner)),
            ])
          : Promise.all([seen(db), seen(db)]),
      ),
    );
    expect(looks).toEqual(looks.map(() => [[ours.sandboxId], [ours.sandboxId]]));
  });

  test("changes and makes nothing of another organization, though its query says so", async () => {
    const db = forOrganization(gateway, ours.organizationId);
    const { organizationId, sandboxId } = theirs;
    const requester = aRequester({ organizationId });
    expect(await patchSandbox(db, sandboxId, organizationId, { autoResume: true })).toEqual({
      kind: "not_found",
    });
    expect(await acceptRequest(db, sandboxId, "pause", requester)).toEqual({ kind: "not_found" });
    expect(await stateOf(acceptCreate(db, aSandbox(), requester))).toBe(FORBIDDEN);
    const changed = await db.execute(
      sql`UPDATE sandboxes SET auto_resume = true WHERE id = ${sandboxId} RETURNING id`,
    );
    expect([...changed]).toEqual([]);
    expect(await listEvents(db, sandboxId, 10)).toEqual([]);
    expect(await findSandboxRow(database.db, sandboxId)).toMatchObject({ autoResume: false });
  });

  test("cannot be turned by what a client sends, as it is in parameters", async () => {
    const db = forOrganization(gateway, ours.organizationId);
    for (const sent of ["/* every organization */", "x' OR true --", "*/ /* organization 1 */"])
      expect(await findSandboxRow(db, unverifiedSandboxId(sent))).toBeUndefined();
    const injected = sql.raw("SELECT id FROM sandboxes /* every organization */");
    expect((await db.execute(injected)).map(({ id }) => id)).toEqual([ours.sandboxId]);
  });

  test("does what a gateway does, for its own", async () => {
    const db = forOrganization(gateway, ours.organizationId);
    const requester = aRequester(ours);
    const created = await acceptCreate(db, aSandbox(), requester);
    expect(created).toMatchObject({ kind: "accepted" });
    const paused = await acceptRequest(db, ours.sandboxId, "pause", requester);
    expect(paused).toMatchObject({ kind: "accepted" });
    const { sandboxId, organizationId } = ours;
    expect(await patchSandbox(db, sandboxId, organizationId, { autoResume: true })).toMatchObject({
      kind: "patched",
    });
  });

  test("is for the same one through a pooler, whose connections it shares with others", async () => {
    await using pooler: PgBouncer = await startPgBouncer(database.url, { poolSize: 2 });
    const handle = openDatabase(pooler.through(database.url), { maxConnections: 8 });
    try {
      const looks = await Promise.all(
        Array.from({ length: 40 }, (_, at) => {
          const { organizationId } = at % 2 === 0 ? ours : theirs;
          const text = sql`SELECT current_query() AS text`;
          return forOrganization(handle.db, organizationId).execute(text);
        }),
      );
      for (const [at, [row]] of looks.entries()) {
        const { organizationId } = at % 2 === 0 ? ours : theirs;
        expect(String(row?.["text"])).toMatch(
          new RegExp(`^/\\* organization ${organizationId} \\*/`),
        );
      }
    } finally {
      await handle.close();
    }
  });
});

describe("a user", () => {
  test.each([
    ["gateway", "DELETE FROM templates"],
    ["gateway", "DELETE FROM host_admissions"],
    ["gateway", "DELETE FROM snapshots"],
    ["gateway", "DELETE FROM audit_entries"],
    ["gateway", "UPDATE audit_entries SET status = 200"],
    ["gateway", "DELETE FROM sandboxes"],
    ["gateway", "SELECT * FROM host_inventory_parts"],
    ["gateway", "ALTER TABLE sandboxes DISABLE ROW LEVEL SECURITY"],
    ["gateway", "CREATE TABLE mine (id integer)"],
    ["gateway", "SET ROLE torpor_scheduler"],
    ["scheduler", "INSERT INTO templates SELECT * FROM templates"],
    ["scheduler", "SELECT * FROM host_tokens"],
    ["scheduler", "UPDATE host_admissions SET revoked_at = NULL"],
    ["scheduler", "SELECT * FROM api_keys"],
    ["scheduler", "UPDATE api_keys SET scopes = '[\"operator\"]'"],
    ["scheduler", "INSERT INTO audit_entries SELECT * FROM audit_entries"],
    ["scheduler", "DELETE FROM sandboxes"],
    ["scheduler", "UPDATE organization_quotas SET limits = '{}'"],
    ["scheduler", "DROP TABLE sandboxes"],
  ] as const)("of a %s may not: %s", async (user, statement) => {
    const db = user === "gateway" ? forEveryOrganization(gateway) : scheduler;
    expect(await stateOf(db.execute(sql.raw(statement)))).toBe(FORBIDDEN);
  });

  test("of a scheduler sees every organization's rows, and needs no word for it", async () => {
    expect(await seen(scheduler)).toEqual(await seen(database.db));
  });

  test("has what a later migration makes, and keeps its password when it is set up again", async () => {
    await database.sql`REVOKE ALL ON ALL TABLES IN SCHEMA public FROM torpor_gateway`;
    expect(await stateOf(seen(gateway))).toBe(FORBIDDEN);
    await migrate(database.url);
    expect(await seen(forOrganization(gateway, ours.organizationId))).toContain(ours.sandboxId);
    await setUpDatabaseUsers(database.url, {});
    expect(await seen(as("gateway"))).toEqual([]);
  });

  test("is not made by a migration where nobody asked for it; the owner goes on as before", async () => {
    const url = await server.database();
    await migrate(url);
    const handle = openDatabase(url, { maxConnections: 1 });
    try {
      const policies = await handle.db.execute(sql`SELECT FROM pg_policies`);
      expect(policies).toHaveLength(0);
    } finally {
      await handle.close();
    }
    expect(await seen(database.db)).toContain(theirs.sandboxId);
  });
});
