/** Heartbeats and leases of many hosts in one statement, on a real Postgres. */
import {
  type HostId,
  type SandboxId,
  unverifiedHostId,
  unverifiedSandboxId,
} from "@torpor/contracts";
import {
  changeHost,
  findHost,
  findSandboxRow,
  markLostHosts,
  MAX_CHECKS,
  recordHeartbeats,
  recordComparisons,
  registerHost,
  renewFreeLeases,
  renewLease,
} from "@torpor/db";
import {
  aHeartbeat,
  aHost,
  leasesCouldBeRenewed,
  makeSandbox,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
  until,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const LEASE_MS = 60_000;

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

let hosts = 0;
async function host(): Promise<HostId> {
  hosts += 1;
  const id = unverifiedHostId(`host-${hosts}`);
  await registerHost(database.db, aHost(id), LEASE_MS);
  return id;
}
const find = async (id: HostId) => await findHost(database.db, id);

/** Locks a row until `body` has ended. */
async function holding(
  table: "hosts" | "sandboxes",
  id: string,
  body: () => Promise<void>,
): Promise<void> {
  await database.sql.begin(async (tx) => {
    await tx`SELECT 1 FROM ${tx(table)} WHERE id = ${id} FOR UPDATE`;
    await body();
  });
}

async function used(hostId: HostId): Promise<SandboxId> {
  const { id } = await makeSandbox(database, "running", { hostId });
  await database.sql`UPDATE sandboxes SET auto_pause_idle_seconds = 60, last_active_at = now() - interval '1 hour' WHERE id = ${id}`;
  return id;
}

describe("beats", () => {
  test("of many hosts are heard at once, each with its own load and its own sandboxes' use", async () => {
    const [a, b] = [await host(), await host()];
    const [ofA, ofB] = [await used(a), await used(b)];
    const seen = (sandboxId: SandboxId) => ({ sandboxId, epoch: 1, lastActiveMsAgo: 0 });
    const standings = await recordHeartbeats(database.db, [
      aHeartbeat(a, { load: { vms: 1 }, activity: [seen(ofA), seen(ofB)] }),
      aHeartbeat(b, { load: { vms: 2 } }),
      aHeartbeat("nobody"),
    ]);
    expect(standings.map(({ hostId }) => hostId).toSorted()).toEqual([a, b]);
    expect(await find(a)).toMatchObject({ load: { vms: 1 }, lastHeartbeatAt: expect.any(Date) });
    expect(await find(b)).toMatchObject({ load: { vms: 2 } });
    const activeAgoMs = async (id: SandboxId) =>
      Date.now() - ((await findSandboxRow(database.db, id))?.lastActiveAt?.getTime() ?? 0);
    expect(await activeAgoMs(ofA)).toBeLessThan(60_000);
    expect(await activeAgoMs(ofB), "of another host").toBeGreaterThan(60_000);
  });

  test("do not wait for a host whose row is held: it is heard with its next beat", async () => {
    const [held, free] = [await host(), await host()];
    await holding("hosts", held, async () => {
      await recordHeartbeats(database.db, [aHeartbeat(held), aHeartbeat(free)]);
    });
    expect([(await find(held))?.lastHeartbeatAt, (await find(free))?.lastHeartbeatAt]).toEqual([
      null,
      expect.any(Date),
    ]);
  });

  test("HB1: are not heard before the uses that they tell of are recorded", async () => {
    const hostId = await host();
    const sandboxId = await used(hostId);
    let heartbeat: Promise<unknown> | undefined;
    await holding("sandboxes", sandboxId, async () => {
      heartbeat = recordHeartbeats(database.db, [
        aHeartbeat(hostId, { activity: [{ sandboxId, epoch: 1, lastActiveMsAgo: 0 }] }),
      ]);
      await until("the beat waits for the sandbox", async () => {
        const waiting = await database.sql`SELECT 1 FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND query LIKE '%heard AS%'`;
        return waiting.length > 0;
      });
      // A statement that waits for a sandbox has no host locked.
      await database.sql`SELECT 1 FROM hosts WHERE id = ${hostId} FOR UPDATE NOWAIT`;
      expect((await find(hostId))?.lastHeartbeatAt).toBeNull();
    });
    await heartbeat;
    expect((await find(hostId))?.lastHeartbeatAt).toEqual(expect.any(Date));
  });
});

describe("comparisons", () => {
  test("advance the inventory that they were told since, and no other", async () => {
    const [a, b] = [await host(), await host()];
    const facts = { ended: [], open: [] };
    const reconciled = async () =>
      (await recordHeartbeats(database.db, [aHeartbeat(a), aHeartbeat(b)])).map(
        (one) => one.reconciled,
      );
    await recordComparisons(database.db, [
      { ...facts, hostId: a, digest: "one", since: undefined },
    ]);
    expect(await reconciled()).toEqual(["one", null]);
    await recordComparisons(database.db, [
      { ...facts, hostId: a, digest: "two", since: "zero" },
      { ...facts, hostId: b, digest: "two", since: "one" },
    ]);
    expect(await reconciled()).toEqual(["one", null]);
    await recordComparisons(database.db, [{ ...facts, hostId: a, digest: "two", since: "one" }]);
    expect(await reconciled()).toEqual(["two", null]);
  });

  test("keep a bounded number of what a host makes up, and reconcile nothing then", async () => {
    const hostId = await host();
    const open = (from: number) =>
      Array.from({ length: 1_500 }, (_, at) =>
        unverifiedSandboxId(`1763309903${String(from + at).padStart(8, "0")}`),
      );
    for (const from of [0, 1_500, 3_000])
      await recordComparisons(database.db, [
        { hostId, digest: "d", since: undefined, ended: [], open: open(from) },
      ]);
    const [kept] =
      await database.sql`SELECT count(*)::int AS checks FROM host_checks WHERE host_id = ${hostId}`;
    // Rows are counted before each insert: the third finds no room.
    expect(kept).toEqual({ checks: 3_000 });
    const [standing] = await recordHeartbeats(database.db, [aHeartbeat(hostId)]);
    expect(standing?.reconciled).toBeNull();
    expect(standing?.checks).toHaveLength(MAX_CHECKS + 1);
  });
});

describe("leases", () => {
  const renewedTogether = async (...ids: HostId[]) =>
    await renewFreeLeases(
      database.db,
      ids.map((hostId) => ({ hostId, hasFence: true })),
      LEASE_MS,
    );
  /** Renews leases like a scheduler. */
  const renewed = async (...ids: HostId[]) => {
    const together = await renewedTogether(...ids);
    const alone = (id: HostId) => renewLease(database.db, id, LEASE_MS, true);
    return await Promise.all(
      together.map(async (one, at) => one ?? (await alone(ids[at] ?? unverifiedHostId("")))),
    );
  };
  const endsAt = async (id: HostId) => (await find(id))?.leaseExpiresAt.getTime() ?? 0;
  const end = async (id: string) =>
    await database.sql`UPDATE hosts SET lease_expires_at = now() WHERE id = ${id}`;

  test("are renewed together where the host is where it belongs, in the order in which they are asked", async () => {
    const [ready, cordoned] = [await host(), await host()];
    await changeHost(database.db, cordoned, "cordon", "test");
    await Promise.all([end(ready), end(cordoned)]);
    const before = Date.now();
    expect(await renewed(cordoned, ready)).toMatchObject([
      { granted: true, standing: { hostId: cordoned } },
      { granted: true, standing: { hostId: ready } },
    ]);
    for (const id of [ready, cordoned]) {
      expect(await endsAt(id)).toBeGreaterThan(before + LEASE_MS / 2);
      expect(await find(id)).toMatchObject({ hasFence: true });
    }
  });

  test("of others are judged one by one: unknown, retired, revoked, lost", async () => {
    const [retired, revoked, lost] = [await host(), await host(), await host()];
    await changeHost(database.db, retired, "cordon", "test");
    await changeHost(database.db, retired, "retire", "test");
    await database.sql`UPDATE hosts SET revoked_at = now() WHERE id = ${revoked}`;
    await end(lost);
    await leasesCouldBeRenewed(database);
    expect((await markLostHosts(database.db, LEASE_MS)).map(({ id }) => id)).toEqual([lost]);
    expect(await renewed(unverifiedHostId("nobody"), retired, revoked, lost)).toEqual([
      { granted: false, reason: "host nobody is not registered" },
      { granted: false, reason: `host ${retired} is retired` },
      { granted: false, reason: expect.stringContaining("was revoked") },
      { granted: true },
    ]);
    expect(await find(lost)).toMatchObject({ state: "ready" });
    const [event] =
      await database.sql`SELECT fact FROM host_events WHERE host_id = ${lost} ORDER BY id DESC LIMIT 1`;
    expect(event).toEqual({ fact: "returned" });
  });

  test("are answered without waiting for a host whose row is held, which is renewed by itself", async () => {
    const [held, free] = [await host(), await host()];
    await Promise.all([end(held), end(free)]);
    let alone: Promise<unknown> | undefined;
    await holding("hosts", held, async () => {
      expect(await renewedTogether(held, free)).toMatchObject([
        undefined,
        { granted: true, standing: {} },
      ]);
      expect(await endsAt(free)).toBeGreaterThan(Date.now() + LEASE_MS / 2);
      alone = renewed(held);
    });
    expect(await alone).toMatchObject([{ granted: true }]);
    expect(await endsAt(held)).toBeGreaterThan(Date.now() + LEASE_MS / 2);
  });
});
