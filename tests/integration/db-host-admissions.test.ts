/** Admission of hosts in the database: what a token admits, once, and what a revocation ends. */
import { type HostId, unverifiedHostId } from "@torpor/contracts";
import {
  createHostToken,
  findHost,
  findHostAdmission,
  joinHost,
  listHostAdmissions,
  listHostEvents,
  listHostTokens,
  registerHost,
  renewLease,
  revokeHost,
  revokeHostToken,
  seedHostAdmissions,
} from "@torpor/db";
import {
  aHost,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

const HOST_A = "a" as HostId;
const HOST_B = "b" as HostId;

let server: Databases;
let database: TestDatabase;
beforeAll(() => {
  server = sharedPostgres();
});
beforeEach(async () => {
  database = await openTestDatabase(server);
});
afterEach(async () => {
  await database[Symbol.asyncDispose]();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

const LEASE_MS = 10_000;
let made = 0;
async function token(
  given: Partial<Parameters<typeof createHostToken>[1]> = {},
): Promise<{ id: number; secret: string }> {
  made += 1;
  const secret = `secret-${made}`;
  const rest = {
    hostId: null,
    dataPlaneHost: null,
    createdBy: "api-key:1",
    lifetimeSeconds: 3_600,
  };
  const { id } = await createHostToken(database.db, { secret, ...rest, ...given });
  return { id, secret };
}
const joins = (
  secret: string,
  hostId: string,
  natsPublicKey = `key of ${hostId}`,
  certificateKeySha256 = `certified key of ${hostId}`,
) =>
  joinHost(
    database.db,
    { secret, hostId: unverifiedHostId(hostId), natsPublicKey, certificateKeySha256 },
    null,
  );
const refused = (why: string) => ({ kind: "refused", why });
const everything = { limit: 1_000, after: undefined };

describe("a token", () => {
  test("HA1: lets one host in, once; the same host may ask again for what it was told", async () => {
    const { id, secret } = await token({ dataPlaneHost: "10.0.0.5" });
    expect(await joins(secret, "a")).toMatchObject({
      kind: "joined",
      admission: { admittedBy: `host-token:${id}`, dataPlaneHost: "10.0.0.5" },
    });
    expect(await joins(secret, "a")).toMatchObject({
      kind: "joined",
      admission: { natsPublicKeyBefore: null },
    });
    expect(await joins(secret, "a", "another key")).toEqual(refused("used"));
    // A host's public NATS key is no secret, so it is not enough for another certificate key.
    expect(await joins(secret, "a", undefined, "a thief's")).toEqual(refused("used"));
    expect(await joins(secret, "b")).toEqual(refused("used"));
    expect(await findHostAdmission(database.db, HOST_B)).toBeUndefined();
    expect(await listHostTokens(database.db, everything)).toMatchObject([{ id, usedBy: "a" }]);
  });

  test("of many hosts that come with it at once lets in one", async () => {
    const { secret } = await token();
    const hosts = Array.from({ length: 12 }, (_, at) => `host-${at}`);
    const outcomes = await Promise.all(hosts.map((hostId) => joins(secret, hostId)));
    expect(outcomes.filter(({ kind }) => kind === "joined")).toHaveLength(1);
    expect(await listHostAdmissions(database.db, everything)).toHaveLength(1);
  });

  test("of two tokens that come for one new host at once, one lets it in", async () => {
    const tokens = await Promise.all(Array.from({ length: 6 }, () => token()));
    const outcomes = await Promise.all(
      tokens.map(({ secret }, at) => joins(secret, "a", `key ${at}`)),
    );
    expect(outcomes.filter(({ kind }) => kind === "joined")).toHaveLength(1);
  });

  test("that was used is good for the same host after its end, whose answer was lost", async () => {
    const { id, secret } = await token();
    await joins(secret, "a");
    await database.sql`UPDATE host_tokens SET expires_at = now() WHERE id = ${id}`;
    expect(await joins(secret, "a")).toMatchObject({ kind: "joined" });
    expect(await joins(secret, "b")).toEqual(refused("used"));
  });

  test("is no use when it is unknown, over, revoked or for another host", async () => {
    expect(await joins("guess", "a")).toEqual(refused("unknown"));
    const over = await token();
    await database.sql`UPDATE host_tokens SET expires_at = now() WHERE id = ${over.id}`;
    expect(await joins(over.secret, "a")).toEqual(refused("ended"));
    const revoked = await token();
    await revokeHostToken(database.db, revoked.id);
    expect(await joins(revoked.secret, "a")).toEqual(refused("ended"));
    expect(await joins((await token({ hostId: HOST_B })).secret, "a")).toEqual(
      refused("another_host"),
    );
    expect(await findHostAdmission(database.db, HOST_A)).toBeUndefined();
  });

  test("HA2: that names no host cannot take over one that is there, joined or registered", async () => {
    await joins((await token()).secret, "a");
    await registerHost(database.db, aHost("b"), LEASE_MS);
    for (const hostId of ["a", "b"])
      expect(await joins((await token()).secret, hostId, "stranger")).toEqual(
        refused("host_is_there"),
      );
    expect(await findHostAdmission(database.db, HOST_A)).toMatchObject({
      natsPublicKey: "key of a",
    });
  });

  test("lets in nobody as a host that was retired", async () => {
    await registerHost(database.db, aHost("a"), LEASE_MS);
    await database.sql`UPDATE hosts SET state = 'retired'`;
    expect(await joins((await token({ hostId: HOST_A })).secret, "a")).toEqual(refused("retired"));
  });

  test("is kept as its digest alone", async () => {
    const { secret } = await token();
    const rows = await database.sql`SELECT * FROM host_tokens`;
    expect(JSON.stringify(rows)).not.toContain(secret);
  });
});

describe("a host that joins again", () => {
  test("keeps its old key beside the new one for a day", async () => {
    await joins((await token()).secret, "a", "first");
    await joins((await token({ hostId: HOST_A })).secret, "a", "second");
    const [admission] = await listHostAdmissions(database.db, everything);
    expect(admission).toMatchObject({
      natsPublicKey: "second",
      natsPublicKeyBefore: "first",
      isBeforeGood: true,
    });
    await database.sql`UPDATE host_admissions SET before_good_until = now()`;
    expect(await listHostAdmissions(database.db, everything)).toMatchObject([
      { isBeforeGood: false },
    ]);
  });

  test("with a further token and the keys that it has keeps what it had beside them", async () => {
    await joins((await token()).secret, "a", "first");
    await joins((await token({ hostId: HOST_A })).secret, "a", "second");
    await joins((await token({ hostId: HOST_A })).secret, "a", "second");
    expect(await findHostAdmission(database.db, HOST_A)).toMatchObject({
      natsPublicKey: "second",
      natsPublicKeyBefore: "first",
    });
  });

  test("after it was revoked has nothing of before", async () => {
    await joins((await token()).secret, "a", "stolen");
    await registerHost(database.db, aHost("a"), LEASE_MS);
    await revokeHost(database.db, HOST_A, "api-key:1");
    await joins((await token({ hostId: HOST_A })).secret, "a", "new");
    expect(await findHostAdmission(database.db, HOST_A)).toMatchObject({
      natsPublicKey: "new",
      natsPublicKeyBefore: null,
      revokedAt: null,
    });
    expect(await renewLease(database.db, HOST_A, LEASE_MS, false)).toEqual({ granted: true });
  });
});

describe("a host that is revoked", () => {
  test("gets no lease any more, and its history says who did it", async () => {
    await joins((await token()).secret, "a");
    await registerHost(database.db, aHost("a"), LEASE_MS);
    expect(await renewLease(database.db, HOST_A, LEASE_MS, false)).toEqual({ granted: true });
    const revoked = await revokeHost(database.db, HOST_A, "api-key:7");
    expect(revoked?.revokedAt).toBeInstanceOf(Date);
    expect(await revokeHost(database.db, HOST_A, "api-key:8")).toEqual(revoked);
    expect(await renewLease(database.db, HOST_A, LEASE_MS, false)).toMatchObject({
      granted: false,
      reason: expect.stringMatching(/host a was revoked/),
    });
    const events = await listHostEvents(database.db, HOST_A, 10);
    expect(events.at(-1)).toMatchObject({ fact: "revoked", requestedBy: "api-key:7" });
    expect((await findHost(database.db, HOST_A))?.revokedAt).toBeInstanceOf(Date);
  });

  test("is not let in by a start of the local fleet", async () => {
    const seed = () =>
      seedHostAdmissions(database.url, [{ hostId: "a", natsPublicKey: "k" }], "local");
    await seed();
    await revokeHost(database.db, HOST_A, "api-key:1");
    await seed();
    expect((await findHostAdmission(database.db, HOST_A))?.revokedAt).toBeInstanceOf(Date);
  });

  test("nobody is revoked who never joined", async () => {
    expect(await revokeHost(database.db, HOST_A, "api-key:1")).toBeUndefined();
  });
});

test("lists are read by pages", async () => {
  for (const hostId of ["c", "a", "b"]) await joins((await token()).secret, hostId);
  const page = await listHostAdmissions(database.db, { limit: 2, after: undefined });
  expect(page.map(({ hostId }) => hostId)).toEqual(["a", "b"]);
  expect(
    (await listHostAdmissions(database.db, { limit: 2, after: HOST_B })).map(
      ({ hostId }) => hostId,
    ),
  ).toEqual(["c"]);
  const tokens = await listHostTokens(database.db, { limit: 2, after: undefined });
  expect(tokens).toHaveLength(2);
  expect(await listHostTokens(database.db, { limit: 2, after: tokens.at(-1)?.id })).toHaveLength(1);
});
