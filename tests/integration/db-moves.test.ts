/**
 * The one way to change a sandbox: compare-and-set, event, outbox and capacity are applied together
 * or not at all.
 */
import { type HostId, unverifiedHostId } from "@torpor/contracts";
import {
  findSandboxRow,
  inTransaction,
  listEvents,
  registerHost,
  type SandboxRow,
} from "@torpor/db";
import {
  aHost,
  makeSandbox,
  moveSandbox,
  type MoveResult,
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

type Move = Omit<Parameters<typeof moveSandbox>[1], "sandbox">;

/** Moves a sandbox like the product: a move that is refused is rolled back. */
const move = (sandbox: SandboxRow, given: Move) =>
  inTransaction<MoveResult, MoveResult>(database.db, async (tx, rollback) => {
    const moved = await moveSandbox(tx, { sandbox, ...given });
    return moved.kind === "moved" ? moved : rollback(moved);
  });
const used = async (...ids: string[]) => [
  ...(await database.sql`SELECT id, vcpu_used, memory_mib_used, disk_mib_used FROM hosts WHERE id IN ${database.sql(ids)} ORDER BY id`),
];
const usedBySandboxes = async (...ids: string[]) => [
  ...(await database.sql`
    SELECT hosts.id, coalesce(sum(vcpu) FILTER (WHERE holds_memory), 0)::int AS vcpu_used,
      coalesce(sum(memory_mib) FILTER (WHERE holds_memory), 0)::int AS memory_mib_used, coalesce(sum(disk_mib), 0)::int AS disk_mib_used
    FROM hosts LEFT JOIN sandboxes ON host_id = hosts.id AND sandboxes.state <> 'deleted'
    WHERE hosts.id IN ${database.sql(ids)} GROUP BY hosts.id ORDER BY hosts.id`),
];

test("S28: of two that move the same sandbox one wins, and the other is told that it was not first", async () => {
  const sandbox = await makeSandbox(database, "running");
  const results = await Promise.all([
    move(sandbox, { to: "pausing", fact: "pause_assigned" }),
    move(sandbox, { to: "stopping", fact: "stop_assigned" }),
  ]);
  expect(results.map(({ kind }) => kind).toSorted()).toEqual(["lost_race", "moved"]);
  const winner = results[0].kind === "moved" ? "pausing" : "stopping";
  expect(await findSandboxRow(database.db, sandbox.id)).toMatchObject({
    state: winner,
    generation: sandbox.generation + 1,
  });
  expect((await listEvents(database.db, sandbox.id, 100)).map(({ toState }) => toState)).toEqual([
    "creating",
    "running",
    winner,
  ]);
});

test("events of 8 writers who each move a sandbox 5 times are numbered without a gap, and each is announced", async () => {
  const { id } = await makeSandbox(database, "running");
  const insist = async () => {
    const sandbox = await findSandboxRow(database.db, id);
    if (sandbox === undefined) throw new Error("it is gone");
    if ((await move(sandbox, { to: sandbox.state, fact: "running" })).kind !== "moved")
      await insist();
  };
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      for (let left = 5; left > 0; left -= 1) await insist();
    }),
  );
  const seqs = (await listEvents(database.db, id, 100)).map(({ seq }) => seq);
  expect(seqs).toEqual(Array.from({ length: 42 }, (_, at) => at + 1));
  const announced = await database.sql`SELECT payload->'seq' AS seq FROM outbox 
    WHERE payload->>'type' = 'sandbox_event' AND payload->>'sandboxId' = ${id} ORDER BY 1`;
  expect(announced.map(({ seq }) => Number(seq))).toEqual(seqs);
});

test("a move that is rolled back leaves no state, no event, no message and no reservation", async () => {
  await registerHost(database.db, aHost("rolled"), 60_000);
  const sandbox = await makeSandbox(database, "creating");
  const before = {
    row: await findSandboxRow(database.db, sandbox.id),
    used: await used("rolled"),
    outbox: [...(await database.sql`SELECT id FROM outbox ORDER BY id`)],
  };
  const failed = inTransaction(database.db, async (tx) => {
    const patch = { hostId: "rolled" as HostId, holdsMemory: true };
    const moved = await moveSandbox(tx, {
      sandbox,
      to: "running",
      fact: "running",
      patch,
      messages: [{ subject: "x", payload: {} }],
    });
    expect(moved.kind).toBe("moved");
    throw new Error("the caller failed later");
  });
  await expect(failed).rejects.toThrow("the caller failed later");
  expect(await findSandboxRow(database.db, sandbox.id)).toEqual(before.row);
  expect(await used("rolled")).toEqual(before.used);
  expect([...(await database.sql`SELECT id FROM outbox ORDER BY id`)]).toEqual(before.outbox);
  expect(await listEvents(database.db, sandbox.id, 100)).toHaveLength(2);
});

test("S29: a host never carries more than it has, however many race for it; who comes too late changes nothing", async () => {
  await registerHost(
    database.db,
    aHost("full", { capacity: { vcpu: 100, memoryMib: 640, diskMib: 10_000 } }),
    60_000,
  );
  const made: SandboxRow[] = [];
  for (let left = 30; left > 0; left -= 1) made.push(await makeSandbox(database, "creating"));
  const results = await Promise.all(
    made.map((sandbox) =>
      move(sandbox, {
        to: "running",
        fact: "running",
        patch: { hostId: "full" as HostId, holdsMemory: true },
      }),
    ),
  );
  expect(results.filter(({ kind }) => kind === "moved")).toHaveLength(10);
  expect(results.filter(({ kind }) => kind !== "moved")).toEqual(
    Array.from({ length: 20 }, () => ({ kind: "no_capacity", hostId: "full" })),
  );
  expect(await used("full")).toEqual([
    { id: "full", vcpu_used: 10, memory_mib_used: 640, disk_mib_used: 160 },
  ]);
  expect(await used("full")).toEqual(await usedBySandboxes("full"));
});

test("moves between two hosts in opposite directions do not block each other, and the sums stay right", async () => {
  for (const id of ["swap-1", "swap-2"])
    await registerHost(
      database.db,
      aHost(id, { capacity: { vcpu: 40, memoryMib: 4096, diskMib: 4096 } }),
      60_000,
    );
  const made: SandboxRow[] = [];
  for (let at = 0; at < 20; at += 1)
    made.push(
      await makeSandbox(database, "running", { hostId: at % 2 === 0 ? "swap-1" : "swap-2" }),
    );
  const results = await Promise.all(
    made.map((sandbox) =>
      move(sandbox, {
        to: "running",
        fact: "running",
        patch: {
          hostId: unverifiedHostId(sandbox.hostId === "swap-1" ? "swap-2" : "swap-1"),
        },
      }),
    ),
  );
  expect(results.map(({ kind }) => kind)).toEqual(Array.from({ length: 20 }, () => "moved"));
  expect(await used("swap-1", "swap-2")).toEqual(await usedBySandboxes("swap-1", "swap-2"));
});

test("a sandbox gives back its memory when it pauses, its disk when it is deleted", async () => {
  await registerHost(database.db, aHost("freed"), 60_000);
  const running = await makeSandbox(database, "running", { hostId: "freed" });
  const paused = await move(running, {
    to: "paused",
    fact: "paused",
    patch: { holdsMemory: false },
  });
  expect(await used("freed")).toEqual([
    { id: "freed", vcpu_used: 0, memory_mib_used: 0, disk_mib_used: 16 },
  ]);
  if (paused.kind !== "moved") throw new Error(paused.kind);
  await move(paused.sandbox, { to: "deleted", fact: "deleted" });
  expect(await used("freed")).toEqual([
    { id: "freed", vcpu_used: 0, memory_mib_used: 0, disk_mib_used: 0 },
  ]);
});
