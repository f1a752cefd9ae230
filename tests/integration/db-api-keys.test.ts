/**
 * API keys in the database: what an upgrade makes of existing keys, and what holds when many
 * requests change keys at once.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type ApiKeyRecord,
  constraintName,
  createApiKey,
  createOrganization,
  findApiKey,
  findApiKeyRecord,
  findEndedCredentials,
  hasOperatorKey,
  isApiKeyGood,
  listApiKeys,
  listOrganizations,
  migrate,
  recordApiKeyUse,
  revokeApiKey,
  rotateApiKey,
  seedApiKey,
  type StreamCredential,
} from "@torpor/db";
import { type SandboxId, type Scope, SCOPES } from "@torpor/contracts";
import {
  makeSandbox,
  openTestDatabase,
  type Databases,
  ROOT,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";

const MIGRATIONS = join(ROOT, "packages/db/migrations");
const digest = (text: string) => createHash("sha256").update(text).digest("hex");

let server: Databases;
beforeAll(() => {
  server = sharedPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

/** Database of the version whose newest migration is `last`. */
async function databaseAt(last: string): Promise<string> {
  const url = await server.emptyDatabase();
  const journal = JSON.parse(await readFile(join(MIGRATIONS, "meta/_journal.json"), "utf8")) as {
    entries: { tag: string; when: number }[];
  };
  const entries = journal.entries.slice(
    0,
    journal.entries.findIndex(({ tag }) => tag === last) + 1,
  );
  expect(entries.length).toBeGreaterThan(0);
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  await sql`CREATE SCHEMA drizzle`;
  await sql`CREATE TABLE drizzle.__drizzle_migrations (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at bigint)`;
  for (const { tag, when } of entries) {
    await sql.unsafe(await readFile(join(MIGRATIONS, `${tag}.sql`), "utf8"));
    await sql`INSERT INTO drizzle.__drizzle_migrations (hash, created_at) VALUES (${tag}, ${when})`;
  }
  await sql.end();
  return url;
}

describe("an upgrade from before there were scopes", () => {
  const oldInsert = (sql: postgres.Sql, name: string) =>
    sql`INSERT INTO api_keys (organization_id, name, key_sha256) SELECT id, ${name}, ${digest(name)} FROM organizations`;

  test("leaves every key what it could do for its organization, and programs of then make such keys", async () => {
    const url = await databaseAt("0005_fleet_repairs");
    const sql = postgres(url, { max: 1, onnotice: () => {} });
    await sql`INSERT INTO organizations (name) VALUES ('default')`;
    await oldInsert(sql, "before");
    await oldInsert(sql, "revoked");
    await sql`UPDATE api_keys SET revoked_at = now() WHERE name = 'revoked'`;
    await migrate(url);
    // A gateway or fleet of the previous version inserts a key like this.
    await oldInsert(sql, "after");
    const rows = await sql`SELECT name, scopes, expires_at, last_used_at FROM api_keys ORDER BY id`;
    const none = { expires_at: null, last_used_at: null };
    expect([...rows]).toEqual(
      ["before", "revoked", "after"].map((name) => ({
        name,
        scopes: ["read", "lifecycle", "exec"],
        ...none,
      })),
    );
    const asked =
      await sql`SELECT id, organization_id FROM api_keys WHERE key_sha256 = ${digest("before")} AND revoked_at IS NULL`;
    expect(asked, "the question of a gateway of the version before").toHaveLength(1);
    await sql.end();

    expect(await hasOperatorKey(url)).toBe(false);
    await seedApiKey(url, { organization: "default", apiKey: "before", isOperator: true });
    expect(await hasOperatorKey(url), "whoever has the database names the operator's key").toBe(
      true,
    );
  });
});

describe("a key", () => {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await openTestDatabase(server);
    return async () => await database[Symbol.asyncDispose]();
  });

  let made = 0;
  async function make(
    scopes: Scope[] = ["read"],
    expiresAt: Date | null = null,
  ): Promise<ApiKeyRecord & { secret: string }> {
    made += 1;
    const secret = `secret-${made}`;
    const { db, organizationId } = database;
    const key = { organizationId, name: `key ${made}`, scopes, expiresAt, createdBy: "api-key:1" };
    return { ...(await createApiKey(db, { ...key, secret, hint: "secret" })), secret };
  }
  const inMs = (ms: number) => new Date(Date.now() + ms);
  const expire = (id: number) =>
    database.sql`UPDATE api_keys SET expires_at = now() - interval '1 ms' WHERE id = ${id}`;
  const rotate = (id: number, secret: string, overlapSeconds = 0) =>
    rotateApiKey(database.db, id, {
      secret,
      hint: "new",
      overlapSeconds,
      requestedBy: "api-key:1",
    });

  test("is found with its scopes until it expires or is revoked, by the clock of the database", async () => {
    const forEver = await make(["exec", "read"]);
    expect(await findApiKey(database.db, forEver.secret)).toEqual({
      apiKeyId: forEver.id,
      organizationId: database.organizationId,
      scopes: ["exec", "read"],
      expiresAt: null,
      goodForMs: null,
    });
    const expiresAt = inMs(3_600_000);
    const forAnHour = await make(["read"], expiresAt);
    const found = await findApiKey(database.db, forAnHour.secret);
    expect(found).toMatchObject({ expiresAt, goodForMs: expect.any(Number) });
    expect(found?.goodForMs).toBeLessThanOrEqual(3_600_000);
    await expire(forAnHour.id);
    expect(await findApiKey(database.db, forAnHour.secret)).toBeUndefined();
    await revokeApiKey(database.db, forEver.id);
    expect(await findApiKey(database.db, forEver.secret)).toBeUndefined();
    const statuses = await listApiKeys(database.db, filter());
    expect(statuses.map(({ id, status }) => [id, status])).toEqual(
      expect.arrayContaining([
        [forEver.id, "revoked"],
        [forAnHour.id, "expired"],
      ]),
    );
  });

  const filter = (given: Partial<Parameters<typeof listApiKeys>[1]> = {}) => ({
    organizationId: undefined,
    status: undefined,
    limit: 100,
    beforeId: undefined,
    ...given,
  });

  test("is listed without its digest, by organization and status, newest first, in pages", async () => {
    const keys = [await make(), await make(), await make()];
    await revokeApiKey(database.db, keys[1]?.id ?? 0);
    const other = await createOrganization(database.db, "other");
    expect(await createOrganization(database.db, "other"), "its name is taken").toBeUndefined();
    const ids = async (given: Parameters<typeof filter>[0]) =>
      (await listApiKeys(database.db, filter(given))).map(({ id }) => id);
    const [first = 0, second = 0, third = 0] = keys.map(({ id }) => id);
    const { organizationId } = database;
    expect((await ids({ organizationId })).slice(0, 3)).toEqual([third, second, first]);
    expect(await ids({ status: "revoked" })).toEqual([second]);
    expect(await ids({ organizationId: other?.id ?? 0 })).toEqual([]);
    expect(await ids({ beforeId: third, limit: 1 })).toEqual([second]);
    const [record] = await listApiKeys(database.db, filter({ limit: 1 }));
    expect(Object.keys(record ?? {})).not.toContain("keySha256");
    expect(record).toMatchObject({ organization: "test", createdBy: "api-key:1", hint: "secret" });
    expect(await listOrganizations(database.db, 10, organizationId)).toEqual([other]);
  });

  test("whose scopes are none, or unknown, cannot be stored", async () => {
    for (const scopes of [[], ["root" as Scope]])
      expect(await make(scopes).catch(constraintName)).toBe("api_keys_scopes");
  });

  test("that is seeded again gets what an operator's has, and loses nothing", async () => {
    const { url, db } = database;
    const seed = { organization: "seeded", apiKey: "seed" };
    await seedApiKey(url, seed);
    const scopes = async () => (await findApiKey(db, "seed"))?.scopes.toSorted();
    expect(await scopes()).toEqual(["exec", "lifecycle", "read"]);
    await Promise.all([1, 2, 3].map(() => seedApiKey(url, { ...seed, isOperator: true })));
    expect(await scopes()).toEqual(SCOPES.toSorted());
    await seedApiKey(url, seed);
    expect(await scopes()).toEqual(SCOPES.toSorted());
    // Another operator's key, so that the first one is not the last.
    await make(["operator"]);
    const { apiKeyId = 0 } = (await findApiKey(db, "seed")) ?? {};
    await revokeApiKey(db, apiKeyId);
    await seedApiKey(url, { ...seed, isOperator: true });
    expect(await findApiKey(db, "seed"), "a revoked key stays revoked").toBeUndefined();
  });

  test("is used: noted at once, then not again within the minute", async () => {
    const { id } = await make();
    const lastUse = async () => (await findApiKeyRecord(database.db, id))?.lastUsedAt ?? null;
    expect(await lastUse()).toBeNull();
    await recordApiKeyUse(database.db, id);
    const first = await lastUse();
    expect(first).toBeInstanceOf(Date);
    await recordApiKeyUse(database.db, id);
    expect(await lastUse()).toEqual(first);
    await database.sql`UPDATE api_keys SET last_used_at = now() - interval '61 s' WHERE id = ${id}`;
    await Promise.all(Array.from({ length: 8 }, () => recordApiKeyUse(database.db, id)));
    expect((await lastUse())?.getTime()).toBeGreaterThanOrEqual(first?.getTime() ?? Infinity);
  });

  test("is rotated: the same rights and the same end with a new secret; the old one ends with the overlap", async () => {
    const until = inMs(7_200_000);
    const old = await make(["read", "exec"], until);
    const rotated = await rotate(old.id, "rotated-1", 3600);
    expect(rotated).toMatchObject({
      kind: "rotated",
      key: { name: old.name, scopes: ["read", "exec"], expiresAt: until, hint: "new" },
      replaced: { id: old.id, status: "active", revokedAt: null },
    });
    if (rotated.kind !== "rotated") return;
    expect(rotated.replaced.replacedBy).toBe(rotated.key.id);
    expect(rotated.replaced.expiresAt?.getTime()).toBeLessThan(until.getTime());
    expect(await findApiKey(database.db, old.secret)).toBeDefined();
    expect(await findApiKey(database.db, "rotated-1")).toMatchObject({ apiKeyId: rotated.key.id });

    const soon = inMs(60_000);
    const short = await make(["read"], soon);
    expect(
      await rotate(short.id, "rotated-2", 3600),
      "no overlap makes it live longer",
    ).toMatchObject({ replaced: { expiresAt: soon } });
    const now = await make();
    expect(await rotate(now.id, "rotated-3")).toMatchObject({ replaced: { status: "revoked" } });
    expect(await findApiKey(database.db, now.secret)).toBeUndefined();
  });

  test("that has ended is not rotated", async () => {
    const [revoked, expired] = [await make(), await make()];
    await revokeApiKey(database.db, revoked.id);
    await expire(expired.id);
    const refused = { kind: "refused", key: { replacedBy: null } };
    expect(await rotate(revoked.id, "no-1")).toMatchObject(refused);
    expect(await rotate(expired.id, "no-2")).toMatchObject(refused);
    expect(await rotate(2 ** 31 - 1, "no-3")).toEqual({ kind: "not_found" });
    expect(await revokeApiKey(database.db, 2 ** 31 - 1)).toEqual({ kind: "not_found" });
    for (const secret of ["no-1", "no-2", "no-3"])
      expect(await findApiKey(database.db, secret)).toBeUndefined();
  });

  test("that is rotated by many at once has one successor", async () => {
    const { id } = await make();
    const at = Array.from({ length: 8 }, (_, index) => index);
    const results = await Promise.all(at.map((index) => rotate(id, `many-${id}-${index}`, 60)));
    const rotated = results.filter(({ kind }) => kind === "rotated");
    expect(rotated).toHaveLength(1);
    const found = await Promise.all(
      at.map((index) => findApiKey(database.db, `many-${id}-${index}`)),
    );
    expect(found.filter((owner) => owner !== undefined)).toHaveLength(1);
    const replacedBy = (await findApiKeyRecord(database.db, id))?.replacedBy;
    expect(rotated).toMatchObject([{ key: { id: replacedBy } }]);
    const refused = results.filter(({ kind }) => kind === "refused");
    expect(refused).toEqual(refused.map(() => expect.objectContaining({ kind: "refused" })));
    expect(refused).toHaveLength(7);
  });

  test("that is revoked and rotated at once is over, and has a successor only if it was rotated first", async () => {
    for (let round = 0; round < 10; round += 1) {
      const old = await make();
      const secret = `raced-${old.id}`;
      const [rotated, revoked] = await Promise.all([
        rotate(old.id, secret, 60),
        revokeApiKey(database.db, old.id),
      ]);
      expect(revoked).toMatchObject({ kind: "revoked", key: { status: "revoked" } });
      expect(await findApiKey(database.db, old.secret)).toBeUndefined();
      const successor = await findApiKey(database.db, secret);
      expect(successor !== undefined).toBe(rotated.kind === "rotated");
      expect((await findApiKeyRecord(database.db, old.id))?.replacedBy ?? null).toBe(
        successor?.apiKeyId ?? null,
      );
    }
  });

  test("hands what was got with it on to the one that a rotation makes of it, and to none when it is revoked", async () => {
    const { db } = database;
    const good = (...ids: number[]) => Promise.all(ids.map((id) => isApiKeyGood(db, id)));
    const heirOf = async (id: number, overlapSeconds = 0) => {
      const rotated = await rotate(id, `heir-of-${id}`, overlapSeconds);
      if (rotated.kind !== "rotated") throw new Error(`the key was not rotated: ${rotated.kind}`);
      return rotated.key.id;
    };
    const [first, overlapping, revoked] = [await make(), await make(), await make()];
    const second = await heirOf(first.id);
    const third = await heirOf(second);
    expect(await good(first.id, second, third, 999_999)).toEqual([true, true, true, false]);
    await revokeApiKey(db, third);
    expect(await good(first.id, second, third)).toEqual([false, false, false]);

    const heir = await heirOf(overlapping.id, 60);
    expect(await good(overlapping.id, heir)).toEqual([true, true]);
    // Revoking a key ends what that key got, and not what its heir got.
    await revokeApiKey(db, overlapping.id);
    expect(await good(overlapping.id, heir)).toEqual([false, true]);

    await expire(revoked.id);
    expect(await good(revoked.id)).toEqual([false]);
  });

  test("of what is open at the edge, that ends which was opened with it, or with what it got", async () => {
    const { db, sql } = database;
    const { id: sandboxId } = await makeSandbox(database, "running");
    const token = (generation: number, gotWithKeyId?: number) => ({
      sandboxId,
      generation,
      ...(gotWithKeyId === undefined ? {} : { gotWithKeyId }),
    });
    const [rotated, revoked, expired] = [await make(), await make(), await make()];
    const ids = [rotated, revoked, expired].map(({ id }) => id);
    const shown = [
      ...ids.map((apiKeyId) => ({ apiKeyId })),
      ...ids.map((id) => token(0, id)),
      token(0),
      token(1),
    ];
    expect(await findEndedCredentials(db, shown)).toEqual([]);
    await rotate(rotated.id, `heir-of-${rotated.id}`, 0);
    await revokeApiKey(db, revoked.id);
    await expire(expired.id);
    const ended = async (...more: StreamCredential[]) =>
      (await findEndedCredentials(db, [...shown, ...more])).toSorted((a, b) => a - b);
    // What the rotated key got continues with its heir.
    expect(await ended()).toEqual([0, 1, 2, 4, 5]);
    await sql`UPDATE sandboxes SET token_generation = 1 WHERE id = ${sandboxId}`;
    const unknown = [
      { apiKeyId: 999_999 },
      { sandboxId: "1763309903nobody00" as SandboxId, generation: 0 },
    ];
    expect(await ended(...unknown)).toEqual([0, 1, 2, 3, 4, 5, 6, 8, 9]);
  });

  test("the last operator's is not revoked, nor are the last two at once", async () => {
    const { db, url } = database;
    const good = async () =>
      (await listApiKeys(db, filter({ status: "active" }))).filter(({ scopes }) =>
        scopes.includes("operator"),
      );
    // An operator's key that has ended does not count.
    await expire((await make(["operator"])).id);
    await make(["operator"]);
    for (let round = 0; round < 10; round += 1) {
      await make(["operator", "read"]);
      const two = await good();
      const results = await Promise.all(two.map(({ id }) => revokeApiKey(db, id)));
      expect(results.map(({ kind }) => kind).toSorted()).toEqual(["last_operator", "revoked"]);
    }
    const [left] = await good();
    expect(await revokeApiKey(db, left?.id ?? 0)).toEqual({ kind: "last_operator" });
    // A rotation leaves an operator's key.
    expect(await rotate(left?.id ?? 0, "operator-again")).toMatchObject({ kind: "rotated" });
    expect(await hasOperatorKey(url)).toBe(true);
    const again = await revokeApiKey(db, left?.id ?? 0);
    expect(again, "it is over already").toMatchObject({ kind: "revoked" });
  });
});
