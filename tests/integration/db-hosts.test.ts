/**
 * A host's life in the database: every move is an event with its reason, and no move leaves a
 * sandbox without a host.
 */
import type { HostId } from "@torpor/contracts";
import {
  changeHost,
  findHost,
  findSandboxRow,
  findSnapshot,
  finishDrain,
  inTransaction,
  listEvents,
  listHostEvents,
  markLostHosts,
  noteAnswering,
  findHostOverview,
  pruneHostChecks,
  registerHost,
  renewLease,
  requestDrain,
  type SandboxRow,
} from "@torpor/db";
import {
  applyEffects,
  aHost,
  leasesCouldBeRenewed,
  makeSandbox,
  moveSandbox,
  type MoveResult,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
  until,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const LEASE_MS = 60_000;
const BUDGET = { maxParallel: 1, maxBytesPerSecond: null, deadlineAt: null };

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
  const registration = aHost(`host-${hosts}`);
  await registerHost(database.db, registration, LEASE_MS);
  return registration.hostId;
}
const events = async (hostId: HostId) => await listHostEvents(database.db, hostId, 100);
const facts = async (hostId: HostId) =>
  (await events(hostId)).map(({ fact, fromState, toState }) => [fact, fromState, toState]);
const endLease = (hostId: string) =>
  database.sql`UPDATE hosts SET lease_expires_at = now() - interval '1 second' WHERE id = ${hostId}`.then(
    () => {},
  );
const lost = async () => (await markLostHosts(database.db, LEASE_MS)).map(({ id }) => id);
const silence = async (hostId: string) => {
  await endLease(hostId);
  await leasesCouldBeRenewed(database);
  return await lost();
};

const tombstone = async (sandbox: SandboxRow) =>
  await inTransaction(database.db, (tx) =>
    moveSandbox(tx, { sandbox, to: "deleting", fact: "delete_accepted" }),
  );

describe("a lease that nobody could renew", () => {
  const note = () => noteAnswering(database.db, LEASE_MS);
  const since = async () =>
    (await database.sql`SELECT answering_since FROM lease_service`)[0]?.["answering_since"] as Date;
  /** Makes the last note this old. */
  const outage = (ms: number) =>
    database.sql`UPDATE lease_service SET answered_at = now() - ${`${ms} milliseconds`}::interval`;

  test("LS1: proves nothing: no host is lost before it could have renewed for a whole lease", async () => {
    const [id, dead] = [await host(), await host()];
    await database.sql`DELETE FROM lease_service`;
    await Promise.all([endLease(id), endLease(dead)]);
    expect(await lost(), "nobody has answered yet").toEqual([]);
    await note();
    expect(await lost(), "somebody has just begun to").toEqual([]);
    await leasesCouldBeRenewed(database, LEASE_MS - 1_000);
    await note();
    expect(await lost(), "not for a lease yet").toEqual([]);
    await renewLease(database.db, id, LEASE_MS, false);
    await leasesCouldBeRenewed(database, LEASE_MS + 1_000);
    await note();
    expect(await lost(), "this one had its time").toEqual([dead]);
  });

  test("S38, LS3: in an outage, and after one, none is lost, whichever of several schedulers is the first to note or to look", async () => {
    const id = await host();
    await endLease(id);
    await leasesCouldBeRenewed(database);
    await outage(LEASE_MS / 2);
    expect(await lost(), "in the outage").toEqual([]);
    const looks = await Promise.all(
      Array.from({ length: 16 }, async (_, at) =>
        at % 3 === 0 ? (await note(), []) : await lost(),
      ),
    );
    expect(looks.flat(), "when it ends").toEqual([]);
    expect(Date.now() - (await since()).getTime()).toBeLessThan(LEASE_MS / 2);
    await leasesCouldBeRenewed(database);
    expect(await lost(), "a lease later").toEqual([id]);
  });

  test("a note that is a little late is no gap", async () => {
    await leasesCouldBeRenewed(database);
    const before = await since();
    await outage(LEASE_MS / 5);
    await note();
    expect(await since()).toEqual(before);
  });
});

describe("a host's history", () => {
  test("says what it was, who wanted it, and why and when it was lost; a renewal is no event", async () => {
    const id = await host();
    await renewLease(database.db, id, LEASE_MS, false);
    await changeHost(database.db, id, "cordon", "api-key:1");
    await changeHost(database.db, id, "cordon", "api-key:1");
    expect(await silence(id)).toEqual([id]);
    expect(await silence(id), "once").toEqual([]);
    await renewLease(database.db, id, LEASE_MS, false);
    expect(await facts(id)).toEqual([
      ["registered", null, "ready"],
      ["cordoned", "ready", "cordoned"],
      ["lost", "cordoned", "lost"],
      ["returned", "lost", "cordoned"],
    ]);
    const loss = (await events(id))[2];
    expect(loss).toMatchObject({
      requestedBy: "system:lease",
      cause: { code: "LEASE_ENDED", message: expect.stringMatching(/ended at \d{4}-/) },
    });
    expect((await events(id))[1]?.requestedBy).toBe("api-key:1");
  });

  test("two schedulers that look at the same moment enter a loss once", async () => {
    const id = await host();
    await endLease(id);
    await leasesCouldBeRenewed(database);
    const seen = await Promise.all(Array.from({ length: 8 }, lost));
    expect(seen.flat()).toEqual([id]);
    expect((await facts(id)).filter(([fact]) => fact === "lost")).toHaveLength(1);
  });
});

describe("retiring", () => {
  test("a host with sandboxes is refused, one without is done, and it is let in no more", async () => {
    const id = await host();
    const sandbox = await makeSandbox(database, "stopped", { hostId: id });
    await changeHost(database.db, id, "cordon", "test");
    expect(await changeHost(database.db, id, "retire", "test")).toMatchObject({
      kind: "has_sandboxes",
      sandboxes: 1,
    });
    const gone = await inTransaction(database.db, (tx) =>
      moveSandbox(tx, { sandbox, to: "deleted", fact: "deleted", patch: { hostId: null } }),
    );
    expect(gone.kind).toBe("moved");
    expect(await changeHost(database.db, id, "retire", "test")).toMatchObject({
      kind: "moved",
      host: { state: "retired" },
    });
    expect(await registerHost(database.db, aHost(id), LEASE_MS)).toMatchObject({
      granted: false,
      reason: expect.stringContaining("new id"),
    });
    expect(await renewLease(database.db, id, LEASE_MS, false)).toMatchObject({ granted: false });
    expect(await silence(id)).toEqual([]);
    expect(await findHost(database.db, id)).toMatchObject({ state: "retired" });
  });

  test("what a host was to be asked goes with it, also what was written after that", async () => {
    const { sql, db } = database;
    const [gone, stays] = [await host(), await host()];
    const note = async (id: HostId) =>
      void (await sql`INSERT INTO host_checks (host_id, sandbox_id) VALUES (${id}, ${id})`);
    const noted = async () =>
      (await sql`SELECT host_id FROM host_checks WHERE host_id IN ${sql([gone, stays])}`).map(
        (row) => String(row["host_id"]),
      );
    await note(stays);
    await note(gone);
    await changeHost(db, gone, "cordon", "test");
    await changeHost(db, gone, "retire", "test");
    expect(await noted()).toEqual([stays]);
    await note(gone);
    expect(await pruneHostChecks(db)).toBe(1);
    expect(await noted()).toEqual([stays]);
  });

  test("a host that is ready is refused, and one that is lost is not", async () => {
    const id = await host();
    expect(await changeHost(database.db, id, "retire", "test")).toMatchObject({ kind: "refused" });
    await silence(id);
    expect(await changeHost(database.db, id, "retire", "test")).toMatchObject({ kind: "moved" });
  });

  test("a lost host owes nothing: what was deleted there is settled with it, what was not still holds it up", async () => {
    const id = await host();
    const [deleted, kept] = [
      await makeSandbox(database, "paused", { hostId: id }),
      await makeSandbox(database, "stopped", { hostId: id }),
    ];
    const snapshot = {
      generation: 1,
      sizeBytes: 1,
      manifestSha256: "b".repeat(64),
      guestSynced: true,
      driverFingerprint: "scripted/1",
    };
    const stored = { hasMemory: true, storeKey: null, storeError: null };
    await applyEffects(database, deleted.id, {
      recordsSnapshot: { ...snapshot, ...stored, epoch: 1, hostId: id },
    });
    await tombstone(deleted);
    await changeHost(database.db, id, "cordon", "test");
    expect(
      await changeHost(database.db, id, "retire", "test"),
      "it lives, and will confirm",
    ).toMatchObject({ sandboxes: 2 });
    await silence(id);
    expect(await changeHost(database.db, id, "retire", "test")).toMatchObject({
      kind: "has_sandboxes",
      sandboxes: 1,
    });
    expect(
      await findSandboxRow(database.db, deleted.id),
      "nothing of a refused request stands",
    ).toMatchObject({ state: "deleting" });
    await tombstone(kept);
    expect(await changeHost(database.db, id, "retire", "test")).toMatchObject({
      kind: "moved",
      host: { state: "retired" },
    });
    for (const sandbox of [deleted, kept]) {
      expect(await findSandboxRow(database.db, sandbox.id)).toMatchObject({
        state: "deleted",
        hostId: null,
        holdsMemory: false,
      });
      expect((await listEvents(database.db, sandbox.id, 100)).at(-1)).toMatchObject({
        fact: "deleted",
        cause: { code: "HOST_RETIRED" },
      });
    }
    expect(await findSnapshot(database.db, deleted.id)).toBeUndefined();
    expect(await findHost(database.db, id)).toMatchObject({
      vcpuUsed: 0,
      memoryMibUsed: 0,
      diskMibUsed: 0,
    });
  });

  test("a place that was chosen before is not given on a host that is retired by now", async () => {
    const [from, to] = [await host(), await host()];
    const sandbox = await makeSandbox(database, "paused", { hostId: from });
    await changeHost(database.db, to, "cordon", "test");
    await changeHost(database.db, to, "retire", "test");
    const moved = await inTransaction<never, MoveResult>(database.db, async (tx, rollback) =>
      rollback(
        await moveSandbox(tx, {
          sandbox,
          to: "resuming",
          fact: "resume_assigned",
          patch: { hostId: to, holdsMemory: true },
        }),
      ),
    );
    expect(moved).toEqual({ kind: "no_capacity", hostId: to });
  });
});

test("a host has one drain at a time, whoever asks for it, and a draining one is not uncordoned", async () => {
  const id = await host();
  const asked = await Promise.all(
    Array.from({ length: 6 }, () => requestDrain(database.db, id, BUDGET, "test")),
  );
  expect(asked.map(({ kind }) => kind).toSorted()).toEqual([
    "moved",
    "stay",
    "stay",
    "stay",
    "stay",
    "stay",
  ]);
  expect(await database.sql`SELECT 1 FROM drains WHERE host_id = ${id}`).toHaveLength(1);
  await expect(
    database.sql`INSERT INTO drains (host_id, status, max_parallel, requested_by) VALUES (${id}, 'active', 1, 'x')`,
  ).rejects.toThrow(/drains_one_at_work/);
  expect(await changeHost(database.db, id, "uncordon", "test")).toMatchObject({ kind: "refused" });
  await silence(id);
  expect(
    await requestDrain(database.db, id, BUDGET, "test"),
    "nothing can be moved off it",
  ).toMatchObject({ kind: "refused" });
  await renewLease(database.db, id, LEASE_MS, false);
  expect(await findHost(database.db, id), "it goes on where it was").toMatchObject({
    state: "draining",
    stateBeforeLost: null,
  });
});

test("a host that is read while its drain ends is draining, or its drain is done", async () => {
  const id = await host();
  await requestDrain(database.db, id, BUDGET, "api-key:1");
  const row = (await findHostOverview(database.db, id))?.drain?.drain;
  if (row === undefined) throw new Error("there is no drain");
  const { read } = await database.sql.begin(async (sql) => {
    // The host is read first; then the query waits here while the drain ends.
    await sql`LOCK TABLE host_findings IN ACCESS EXCLUSIVE MODE`;
    const reading = findHostOverview(database.db, id);
    await until(
      "it waits",
      async () =>
        (
          await sql`SELECT 1 FROM pg_locks
          WHERE NOT granted AND relation = 'host_findings'::regclass
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
        ).length > 0,
    );
    expect(await finishDrain(database.db, row)).toBe(true);
    return { read: reading };
  });
  expect(await read).toMatchObject({
    host: { state: "draining" },
    drain: { drain: { status: "active" } },
  });
  expect(await findHostOverview(database.db, id)).toMatchObject({
    host: { state: "cordoned" },
    drain: { drain: { status: "done" } },
  });
});
