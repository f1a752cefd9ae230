/** The rows that a host causes are bounded, and lists of them are paged. */
import type { HostId, SandboxId } from "@torpor/contracts";
import {
  completeInventory,
  findHostOverview,
  listFindings,
  listHostEvents,
  listHostOverviews,
  MAX_EVENTS_OF_SANDBOX,
  pruneHostEvents,
  pruneSandboxEvents,
  registerHost,
} from "@torpor/db";
import {
  applyEffects,
  aHost,
  makeSandbox,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

const HOST_A = "host-a" as HostId;
const HOST_B = "host-b" as HostId;

const KEPT_MS = 3_600_000;

let server: Databases;
let database: TestDatabase;
beforeAll(async () => {
  server = sharedPostgres();
  database = await openTestDatabase(server);
  for (const id of ["a", "b"]) await registerHost(database.db, aHost(`host-${id}`), 60_000);
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

test("of a host's own making the newest 5,000 events stay, and of operators' and other hosts' all", async () => {
  const { db, sql } = database;
  await sql`INSERT INTO host_events (host_id, fact, to_state, requested_by)
    VALUES ('host-a', 'cordoned', 'cordoned', 'api-key:1'), ('host-b', 'cordoned', 'cordoned', 'x')`;
  await sql`INSERT INTO host_events (host_id, fact, to_state, requested_by)
    SELECT 'host-a', 'registered', 'ready', 'host:host-a' FROM generate_series(1, 5100)`;
  // 5,101 events are host-a's own: those above, and its registration. No event is old.
  expect(await pruneHostEvents(db, KEPT_MS)).toBe(101);
  expect(await pruneHostEvents(db, KEPT_MS)).toBe(0);
  const [oldest, ...others] = await listHostEvents(db, HOST_A, 10_000, 0);
  expect(oldest).toMatchObject({ fact: "cordoned", requestedBy: "api-key:1" });
  expect(others).toHaveLength(5_000);
  expect(await listHostEvents(db, HOST_B, 10)).toHaveLength(2);
});

test("of a sandbox the newest 10,000 events stay, and follow each other", async () => {
  const { db, sql } = database;
  const [many, few] = [
    await makeSandbox(database, "stopped"),
    await makeSandbox(database, "stopped"),
  ];
  await sql`INSERT INTO sandbox_events (sandbox_id, seq, fact, to_state, generation, epoch)
    SELECT ${many.id}, seq, 'vmm_responsive', 'running', seq, 1 FROM generate_series(${many.lastSeq + 1}::int, 10500) seq`;
  await sql`UPDATE sandboxes SET last_seq = 10500 WHERE id = ${many.id}`;
  expect(await pruneSandboxEvents(db, 10)).toBe(500);
  expect(await pruneSandboxEvents(db, 10)).toBe(0);
  const left = async (id: string) =>
    (
      await sql`SELECT count(*)::int AS count, min(seq)::int AS first FROM sandbox_events WHERE sandbox_id = ${id}`
    )[0];
  expect(await left(many.id)).toEqual({ count: MAX_EVENTS_OF_SANDBOX, first: 501 });
  expect(await left(few.id)).toEqual({ count: few.lastSeq, first: 1 });
  const plan = await sql.begin(async (tx) => {
    await tx`SET LOCAL enable_seqscan = off`;
    return await tx`EXPLAIN SELECT id FROM sandboxes WHERE last_seq > ${tx.unsafe(String(MAX_EVENTS_OF_SANDBOX))}`;
  });
  expect(JSON.stringify(plan)).toContain("sandboxes_eventful");
});

test("of a sandbox's snapshots 200 stay, those that are needed among them", async () => {
  const { sql } = database;
  const { id: sandboxId } = await makeSandbox(database, "stopped");
  const facts = {
    epoch: 1,
    hostId: HOST_A,
    hasMemory: true,
    storeError: null,
    sizeBytes: 1,
    guestSynced: true,
    driverFingerprint: "x",
  };
  const record = async (generation: number, storeKey: string | null) =>
    await applyEffects(database, sandboxId, {
      recordsSnapshot: { ...facts, generation, storeKey, manifestSha256: `m${generation}` },
    });
  for (let generation = 1; generation <= 220; generation += 1)
    await record(generation, generation <= 5 ? `${sandboxId}/${generation}-m` : null);
  const rows =
    await sql`SELECT generation, dropped_at IS NULL AS there FROM snapshots WHERE sandbox_id = ${sandboxId} ORDER BY generation`;
  expect(rows).toHaveLength(201);
  expect([rows[0], rows[1]?.["generation"], rows.at(-1)]).toEqual([
    { generation: 5, there: false },
    21,
    { generation: 220, there: true },
  ]);
});

test("a host shows its first 100 findings and how many there are; they are paged, and so are hosts", async () => {
  const { db, sql } = database;
  await sql`INSERT INTO host_findings (host_id, sandbox_id, kind, message, epoch, reported_at)
    SELECT 'host-a', '1763309903a' || lpad(at::text, 7, '0'), 'unknown', '', 1, now() FROM generate_series(1, 105) at`;
  await sql`INSERT INTO host_findings (host_id, sandbox_id, kind, message, epoch, reported_at)
    VALUES ('host-b', '1763309903b0000001', 'unknown', '', 1, now()), ('host-b', '1763309903b0000002', 'missing', '', 1, null)`;
  const [a, b] = await listHostOverviews(db, 10);
  expect([a?.findings.count, a?.findings.shown.length]).toEqual([105, 100]);
  expect(b?.findings).toMatchObject({ count: 1, shown: [{ sandboxId: "1763309903b0000001" }] });
  expect(b?.findings).toEqual((await findHostOverview(db, HOST_B))?.findings);
  const first = await listFindings(db, HOST_A, 100);
  expect(first).toEqual(a?.findings.shown);
  const rest = await listFindings(db, HOST_A, 100, first.at(-1)?.sandboxId);
  expect(rest.map(({ sandboxId }) => sandboxId.slice(-3))).toEqual([
    "101",
    "102",
    "103",
    "104",
    "105",
  ]);
  const ids = async (limit: number, after?: HostId) =>
    (await listHostOverviews(db, limit, after)).map(({ host }) => host.id);
  expect([await ids(1), await ids(1, HOST_A), await ids(1, HOST_B)]).toEqual([
    ["host-a"],
    ["host-b"],
    [],
  ]);
});

test("parts of an inventory that never becomes whole are kept up to a number", async () => {
  const { db, sql } = database;
  const part = (at: number) => ({
    hostId: HOST_A,
    entries: [
      {
        sandboxId: `1763309903c${String(at).padStart(7, "0")}` as SandboxId,
        epoch: 1,
        opSeq: 1,
        revision: 1,
      },
    ],
    count: 1_000_000,
    digest: "d",
  });
  for (let at = 0; at < 510; at += 1) expect(await completeInventory(db, part(at))).toBeUndefined();
  const [kept] = await sql`SELECT count(*)::int AS parts FROM host_inventory_parts`;
  expect(kept).toEqual({ parts: 9 });
});
