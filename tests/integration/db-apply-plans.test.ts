/**
 * Applying plans: each plan of a batch is applied or refused by itself, and is compared with the
 * rows of the moment, which are locked.
 */
import {
  type HostId,
  newOperationId,
  type SandboxEventType,
  type SandboxId,
} from "@torpor/contracts";
import {
  acceptCreate,
  acceptRequest,
  acceptWithin,
  applyPlans,
  FIXED_COLUMNS,
  findOpenOperations,
  findSandboxRow,
  findSnapshot,
  inTransaction,
  listEvents,
  noteAnswering,
  readView,
  readViews,
  registerHost,
  type SandboxRow,
} from "@torpor/db";
import { movedBy, type Plan, planAssignment, planMoves } from "@torpor/plans";
import {
  aHost,
  applyEffects,
  aRequester,
  aSandbox,
  makeSandbox,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";

const LEASE_MS = 9_000;

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

const touch = (sandbox: SandboxRow, fact: SandboxEventType = "settings_changed") =>
  planMoves(sandbox, [{ to: sandbox.state, fact }]);
const resumeOn = (sandbox: SandboxRow, hostId: HostId) =>
  planMoves(sandbox, [
    { to: "resuming", fact: "resume_assigned", patch: { hostId, holdsMemory: true } },
  ]);
/** Accepts a pause that waits to be begun, as a drain requests it. */
const pauseThatWaits = async (id: SandboxId, given: Parameters<typeof aRequester>[1] = {}) => {
  const requester = aRequester(database, given);
  const accepted = await inTransaction(database.db, (tx) =>
    acceptWithin(tx, id, "pause", requester),
  );
  if (accepted.kind !== "accepted") throw new Error(accepted.kind);
  return accepted.operation;
};
const kinds = async (plans: Plan[]) =>
  (await applyPlans(database.db, plans)).map(({ kind }) => kind);
const newest = async (id: SandboxId) => {
  const row = await findSandboxRow(database.db, id);
  if (row === undefined) throw new Error(`there is no sandbox ${id}`);
  return row;
};
const many = async (
  count: number,
  ...given: Parameters<typeof makeSandbox> extends [unknown, ...infer Rest] ? Rest : never
) => await Promise.all(Array.from({ length: count }, () => makeSandbox(database, ...given)));

/** Registers a host with room for this many sandboxes. */
async function hostFor(id: string, sandboxes: number): Promise<HostId> {
  const capacity = { vcpu: sandboxes, memoryMib: 1e6, diskMib: 1e6 };
  const registration = aHost(id, { capacity });
  await registerHost(database.db, registration, 600_000);
  return registration.hostId;
}

test("a member that the database refuses fails alone, with the reason; all others are applied", async () => {
  const [first, poisoned, last] = await many(3, "running");
  if (first === undefined || poisoned === undefined || last === undefined) throw new Error("three");
  const plans = [
    touch(first),
    planMoves(poisoned, [
      { to: "running", fact: "settings_changed", patch: { appliedEpoch: 2 ** 40 } },
    ]),
    touch(last),
  ];
  const applied = await applyPlans(database.db, plans);
  expect(applied.map(({ kind }) => kind)).toEqual(["applied", "failed", "applied"]);
  expect(String((applied[1] as { error: Error }).error.cause)).toContain("out of range");
  for (const { id, generation } of [first, last])
    expect((await newest(id)).generation).toBe(generation + 1);
  expect(await newest(poisoned.id)).toEqual(poisoned);
});

test("creates share a batch with other requests, and each stands or falls alone", async () => {
  const { db } = database;
  const running = await makeSandbox(database, "running");
  const create = async (given: Parameters<typeof aSandbox>[0] = {}) =>
    await acceptCreate(db, aSandbox(given), aRequester(database));
  const taken = { edgeAddress: "127.98.0.1" };
  const [made, refused, first, second, paused] = await Promise.allSettled([
    create({ metadata: { a: "b" }, autoPauseIdleSeconds: 60 }),
    create({ vcpu: 2 ** 40 }),
    create(taken),
    create(taken),
    acceptRequest(db, running.id, "pause", aRequester(database)),
  ]);
  expect(refused.status).toBe("rejected");
  for (const one of [made, first, paused])
    expect(one).toMatchObject({ value: { kind: "accepted", isNew: true } });
  expect(second).toMatchObject({ value: { kind: "address_taken" } });
  const { value } = made as { value: { operation: { sandboxId: SandboxId } } };
  const policies = { autoPauseIdleSeconds: 60, autoResume: false, onHostLoss: "wait" };
  const row = await newest(value.operation.sandboxId);
  expect(row).toMatchObject({ state: "creating", generation: 1, lastSeq: 1, ...policies });
  expect(await listEvents(db, row.id, 10)).toMatchObject([{ fact: "accepted", fromState: null }]);
});

test("of two plans of one sandbox in one batch the first is applied, and the other has lost", async () => {
  const sandbox = await makeSandbox(database, "running");
  expect(await kinds([touch(sandbox, "timeout_set"), touch(sandbox, "released")])).toEqual([
    "applied",
    "lost_race",
  ]);
  expect((await listEvents(database.db, sandbox.id, 10)).map(({ fact }) => fact)).toEqual([
    "accepted",
    "accepted",
    "timeout_set",
  ]);
});

test("a batch takes no more of a host than it has, and says who got nothing", async () => {
  const hostId = await hostFor("room-for-two", 2);
  const sandboxes = await many(5, "paused");
  const applied = await applyPlans(
    database.db,
    sandboxes.map((sandbox) => resumeOn(sandbox, hostId)),
  );
  expect(applied.map(({ kind }) => kind).toSorted()).toEqual([
    "applied",
    "applied",
    "no_capacity",
    "no_capacity",
    "no_capacity",
  ]);
  expect(applied.filter(({ kind }) => kind === "no_capacity")[0]).toMatchObject({ hostId });
  const [row] = await database.sql`SELECT vcpu_used FROM hosts WHERE id = ${hostId}`;
  expect(row?.["vcpu_used"]).toBe(2);
});

test("a host whose row is held holds up its own sandboxes, and no others of the batch", async () => {
  const [held, free] = [await hostFor("held", 5), await hostFor("free", 5)];
  const [one, two] = await many(2, "paused");
  if (one === undefined || two === undefined) throw new Error("two");
  await database.sql.begin(async (sql) => {
    await sql`SELECT FROM hosts WHERE id = ${held} FOR UPDATE`;
    expect(await kinds([resumeOn(one, held), resumeOn(two, free)])).toEqual(["locked", "applied"]);
  });
  expect(await kinds([resumeOn(one, held)])).toEqual(["applied"]);
});

test("batches that want the same sandboxes and hosts in every order do not stop each other", async () => {
  const hosts = await Promise.all(["a", "b", "c"].map((name) => hostFor(`order-${name}`, 100)));
  const sandboxes = await many(12, "paused");
  const batch = async (seed: number) => {
    const order = sandboxes.toSorted(
      (a, b) =>
        ((Number.parseInt(a.id.slice(-4), 36) * seed) % 97) -
        ((Number.parseInt(b.id.slice(-4), 36) * seed) % 97),
    );
    const now = await readViews(
      database.db,
      order.map(({ id }) => ({ sandboxId: id })),
    );
    const plans = now.flatMap((view, index) => {
      const hostId = hosts[(index + seed) % hosts.length];
      return view === undefined || hostId === undefined
        ? []
        : [
            planMoves(view.sandbox, [
              {
                to: view.sandbox.state,
                fact: "settings_changed",
                patch: { hostId, holdsMemory: true },
              },
            ]),
          ];
    });
    return await kinds(plans);
  };
  const seen = (await Promise.all(Array.from({ length: 12 }, (_, at) => batch(at + 2)))).flat();
  expect(seen).toContain("applied");
  expect(seen.filter((kind) => !["applied", "lost_race", "locked"].includes(kind))).toEqual([]);
  const sums = await database.sql`
    SELECT vcpu_used AS used, (SELECT count(*)::int FROM sandboxes WHERE host_id = hosts.id) AS there
    FROM hosts WHERE id LIKE 'order-%'`;
  for (const { used, there } of sums) expect(used).toBe(there);
});

test("M2: an operation that is not as it was read takes the whole plan with it", async () => {
  const sandbox = await makeSandbox(database, "running");
  const accepted = await acceptRequest(database.db, sandbox.id, "pause", aRequester(database));
  if (accepted.kind !== "accepted") throw new Error(accepted.kind);
  const { id } = accepted.operation;
  const { from } = movedBy("fail");
  const operation = { id, from, ends: true, terms: null, patch: { status: "failed" as const } };
  const fail = (isUncommitted: boolean) =>
    planMoves(sandbox, [{ to: "running", fact: "settings_changed" }], {
      operations: [{ ...operation, isUncommitted }],
    });
  await database.sql`UPDATE operations SET committed_at = now() WHERE id = ${id}`;
  expect(await kinds([fail(true)])).toEqual(["lost_race"]);
  expect(await newest(sandbox.id)).toEqual(sandbox);
  expect(await kinds([fail(false)])).toEqual(["applied"]);
  expect(await kinds([fail(false)]), "it has ended").toEqual(["lost_race"]);
});

test.each([
  ["only_if_idle_for_ms", null],
  ["pinned_host_id", "host-x"],
  ["max_bytes_per_second", 1],
  ["deadline_at", new Date("2030-01-01T00:00:00Z")],
])(
  "a command is made of the terms that its operation has when it begins: %s",
  async (column, value) => {
    const hostId = await hostFor(`terms-${column.replaceAll("_", "-")}`, 5);
    const { id } = await makeSandbox(database, "running", { hostId });
    const { id: operationId } = await pauseThatWaits(id, { onlyIfIdleForMs: 60_000 });
    const begin = async () => {
      const view = await readView(database.db, { operationId });
      if (view?.named.operation === undefined) throw new Error("it is gone");
      const moment = { now: new Date(), newOperationId };
      const where = { hostId, holdsMemory: true };
      return planAssignment(view, view.named.operation, where, moment);
    };
    const before = await begin();
    await database.sql`UPDATE operations SET ${database.sql({ [column]: value })} WHERE id = ${operationId}`;
    expect(await kinds([before]), "somebody has joined it, or pinned it").toEqual(["lost_race"]);
    expect(await kinds([await begin()])).toEqual(["applied"]);
  },
);

test.each([
  ["its lease has ended", "lease_expires_at = now() - interval '1 second'"],
  ["it was cordoned", "state = 'cordoned'"],
  ["it was revoked", "revoked_at = now()"],
  ["it has registered again", "registered_at = now() + interval '1 second'"],
  ["its fence has gone", "has_fence = false"],
])("a choice is overtaken when of its host %s", async (_, change) => {
  const id = await hostFor(`placed-${change.replaceAll(/[^a-z]/g, "")}`, 10);
  await database.sql`UPDATE hosts SET has_fence = true WHERE id = ${id}`;
  const [host] = await database.sql`SELECT registered_at AS at FROM hosts WHERE id = ${id}`;
  const placed = { id, state: "ready", hasFence: true, registeredAt: host?.["at"] as Date };
  const plan = async () => {
    const sandbox = await makeSandbox(database, "paused");
    return { ...resumeOn(sandbox, id), placed };
  };
  expect(await kinds([await plan()])).toEqual(["applied"]);
  await database.sql`UPDATE hosts SET ${database.sql.unsafe(change)} WHERE id = ${id}`;
  expect(await kinds([await plan()])).toEqual(["overtaken"]);
});

test("two of one anti-affinity key that chose one host in one batch: one goes there", async () => {
  const hostId = await hostFor("apart", 10);
  const [one, two] = await many(2, "paused", { sandbox: { antiAffinity: "db" } });
  if (one === undefined || two === undefined) throw new Error("two");
  const plans = [one, two].map((sandbox) => ({
    ...resumeOn(sandbox, hostId),
    apart: { organizationId: sandbox.organizationId, key: "db", hostId },
  }));
  expect(await kinds(plans)).toEqual(["applied", "overtaken"]);
});

test.each([
  ["it lives", "state = 'ready'"],
  ["it was heard within the margin", "lease_expires_at = now() - interval '4 seconds'"],
  ["no fence ran", "has_fence = false"],
])("a run is not given up for lost when of its host %s", async (_, change) => {
  const id = await hostFor(`lost-${change.replaceAll(/[^a-z]/g, "")}`, 10);
  const ends = async () => {
    const sandbox = await makeSandbox(database, "running", { hostId: id });
    const move = {
      to: "paused",
      fact: "host_lost",
      patch: { hostId: null, holdsMemory: false },
    } as const;
    return { ...planMoves(sandbox, [move]), lost: { hostId: id, silentForMs: 5_000 } };
  };
  const plans = [await ends(), await ends()];
  await database.sql`
    UPDATE hosts SET state = 'lost', has_fence = true, lease_expires_at = now() - interval '6 seconds'
    WHERE id = ${id}`;
  expect(await kinds(plans.slice(0, 1))).toEqual(["applied"]);
  await database.sql`UPDATE hosts SET ${database.sql.unsafe(change)} WHERE id = ${id}`;
  expect(await kinds(plans.slice(1))).toEqual(["overtaken"]);
});

test("a restore that is owed is tried by one, when it is due", async () => {
  const { id } = await makeSandbox(database, "paused");
  await applyEffects(database, id, {
    beginsRun: { epoch: 1, hostId: "h" as HostId, onHostLoss: "restore" },
    endsRun: { epoch: 1, cause: "host_lost" },
    owesRestore: 1,
  });
  const tries = async () => ({
    ...planMoves(await newest(id), [], { effects: { triesRestore: 1 } }),
    dueRestore: 1,
  });
  const [one, other] = [await tries(), await tries()];
  expect(await kinds([one])).toEqual(["applied"]);
  expect(await kinds([other])).toEqual(["lost_race"]);
  await database.sql`
    UPDATE incarnations SET restore_due_at = now() - interval '1 second' WHERE sandbox_id = ${id}`;
  expect(await kinds([other])).toEqual(["applied"]);
  await applyEffects(database, id, { forgetsRestore: true });
  expect(await kinds([await tries()])).toEqual(["lost_race"]);
});

test("what waits for a sandbox is told to whoever reports of it", async () => {
  const sandbox = await makeSandbox(database, "running");
  const report = async () => ({ ...touch(await newest(sandbox.id)), isObserved: true });
  const [nothing] = await applyPlans(database.db, [await report()]);
  expect(nothing).toMatchObject({ kind: "applied", waitingOperationId: null });
  const { id } = await pauseThatWaits(sandbox.id);
  const [applied] = await applyPlans(database.db, [await report()]);
  expect(applied).toMatchObject({ waitingOperationId: id });
});

test("messages are as the outbox has them", async () => {
  const sandbox = await makeSandbox(database, "running");
  const payload = { text: "as it is", at: 1 };
  const plan = planMoves(sandbox, [{ to: "running", fact: "settings_changed" }], {
    messages: [{ subject: "torpor.v1.x", payload, traceId: "t" }],
  });
  const [applied] = await applyPlans(database.db, [plan]);
  if (applied?.kind !== "applied") throw new Error(applied?.kind);
  const ids = applied.messages.map(({ id }) => id);
  const rows = await database.sql`
    SELECT id::int, subject, payload, trace_id AS "traceId" FROM outbox WHERE id IN ${database.sql(ids)} ORDER BY id`;
  expect(applied.messages).toEqual([...rows]);
  const [event] = await database.sql`
    SELECT occurred_at AS at FROM sandbox_events WHERE sandbox_id = ${sandbox.id} AND fact = 'settings_changed'`;
  const { payload: told } = rows[0] as { payload: { occurredAt: string } };
  expect([new Date(told.occurredAt)]).toEqual([event?.["at"]]);
});

test.each(["pause", "stop"] as const)(
  "a %s that has nothing before it begins with the statement that accepts it",
  async (verb) => {
    const hostId = await hostFor(`begun-${verb}`, 5);
    const { id, generation } = await makeSandbox(database, "running", { hostId });
    const asked = aRequester(database, { deadlineMs: 61_000, traceId: "t" });
    const accepted = await acceptRequest(database.db, id, verb, asked);
    if (accepted.kind !== "accepted") throw new Error(accepted.kind);
    const { operation, messages } = accepted;
    const state = verb === "pause" ? "pausing" : "stopping";
    const [numbers, where] = [
      { epoch: 1, opSeq: 2 },
      { hostId, originHostId: hostId },
    ];
    expect(operation).toMatchObject({ status: "executing", ...numbers, ...where });
    expect(operation.startedAt).not.toBeNull();
    expect(await newest(id)).toMatchObject({ state, generation: generation + 1, ...numbers });
    const rows = await database.sql`
      SELECT id::int, subject, payload, trace_id AS "traceId" FROM outbox
      WHERE payload->>'operationId' = ${operation.id} ORDER BY id`;
    expect(messages).toEqual([...rows]);
    const [event, command] = messages.map(({ payload }) => payload);
    expect(event).toMatchObject({ fact: `${verb}_assigned`, operationStatus: "executing" });
    const deadlineAt = operation.deadlineAt.toISOString();
    expect(command).toMatchObject({ kind: verb, hostId, deadlineAt, traceId: "t", ...numbers });
    const [after] = await listEvents(database.db, id, 10).then((events) => events.slice(-1));
    expect(after).toMatchObject({ fact: `${verb}_assigned`, operationId: operation.id });
  },
);

describe("a resume, where schedulers place by where a sandbox is", () => {
  const anywhere = () => true;
  const pausedOn = async (hostId: string) =>
    await makeSandbox(database, "paused", { hostId, sandbox: { memoryMib: 64, diskMib: 16 } });
  const resume = async (
    id: SandboxId,
    goesHome: Parameters<typeof acceptRequest>[4] = anywhere,
  ) => {
    const accepted = await acceptRequest(database.db, id, "resume", aRequester(database), goesHome);
    if (accepted.kind !== "accepted") throw new Error(accepted.kind);
    return accepted.operation;
  };
  beforeEach(async () => {
    await noteAnswering(database.db, LEASE_MS, true);
  });

  test("begins at home with the statement that accepts it, and holds its memory there", async () => {
    const hostId = await hostFor("home", 5);
    const { id } = await pausedOn(hostId);
    const operation = await resume(id);
    expect(operation).toMatchObject({ status: "executing", hostId, epoch: 2, opSeq: 2 });
    expect(await newest(id)).toMatchObject({ state: "resuming", epoch: 2, holdsMemory: true });
    const [run] = await database.sql`
      SELECT host_id, on_host_loss FROM incarnations WHERE sandbox_id = ${id} AND epoch = 2`;
    expect(run).toEqual({ host_id: hostId, on_host_loss: "wait" });
    const [host] =
      await database.sql`SELECT memory_mib_used AS used FROM hosts WHERE id = ${hostId}`;
    expect(host).toEqual({ used: 64 });
  });

  test.each([
    ["its host is cordoned", "state = 'cordoned'"],
    ["its host's lease has ended", "lease_expires_at = now() - interval '1 second'"],
    ["its host was revoked", "revoked_at = now()"],
    ["its host is full", "memory_mib_used = memory_mib_capacity"],
  ])("waits for a choice when %s", async (_, change) => {
    const hostId = await hostFor(`home-${change.replaceAll(/[^a-z]/g, "")}`, 5);
    const { id } = await pausedOn(hostId);
    await database.sql`UPDATE hosts SET ${database.sql.unsafe(change)} WHERE id = ${hostId}`;
    expect(await resume(id)).toMatchObject({ status: "waiting", hostId: null });
    expect(await newest(id)).toMatchObject({ state: "paused", epoch: 1 });
  });

  test("waits for a choice when somebody has its host locked", async () => {
    const hostId = await hostFor("home-locked", 5);
    const { id } = await pausedOn(hostId);
    const holder = await database.sql.reserve();
    try {
      await holder`BEGIN`;
      await holder`SELECT FROM hosts WHERE id = ${hostId} FOR UPDATE`;
      expect(await resume(id)).toMatchObject({ status: "waiting", hostId: null });
      await holder`ROLLBACK`;
    } finally {
      holder.release();
    }
  });

  test("waits for a choice when placement has one, and when schedulers place otherwise", async () => {
    const hostId = await hostFor("home-choice", 5);
    const [one, other] = [await pausedOn(hostId), await pausedOn(hostId)];
    expect(await resume(one.id, () => false)).toMatchObject({ status: "waiting" });
    await noteAnswering(database.db, LEASE_MS, false);
    expect(await resume(other.id)).toMatchObject({ status: "waiting" });
  });
});

test("of many that ask at once one begins it, and the others join", async () => {
  const { id } = await makeSandbox(database, "running", { hostId: await hostFor("begun-once", 5) });
  const asked = await Promise.all(
    Array.from({ length: 8 }, () => acceptRequest(database.db, id, "pause", aRequester(database))),
  );
  const accepted = asked.filter((one) => one.kind === "accepted");
  expect(new Set(accepted.map(({ operation }) => operation.id)).size).toBe(1);
  expect(accepted.filter(({ isNew }) => isNew)).toHaveLength(1);
  expect(await newest(id)).toMatchObject({ state: "pausing", opSeq: 2 });
});

test("a view has the rows as they are", async () => {
  const sandbox = await makeSandbox(database, "running", {
    patch: { metadata: { a: "b" }, expiresAt: new Date("2030-01-01T00:00:00.123Z") },
  });
  const { id } = sandbox;
  await applyEffects(database, id, {
    recordsSnapshot: {
      generation: 3,
      epoch: 1,
      hostId: "h" as HostId,
      hasMemory: true,
      storeKey: null,
      storeError: { code: "X", message: "why" },
      sizeBytes: 2 ** 40,
      manifestSha256: "c".repeat(64),
      guestSynced: true,
      driverFingerprint: "f",
    },
  });
  const accepted = await acceptRequest(database.db, id, "pause", aRequester(database));
  if (accepted.kind !== "accepted") throw new Error(accepted.kind);
  const wanted = { operationId: accepted.operation.id, manifestSha256: "c".repeat(64) };
  const view = await readView(database.db, wanted);
  const { envVars: _, envVarsSealed: __, ...shown } = await newest(id);
  expect(view?.sandbox).toEqual(shown);
  expect(view?.waiting).toEqual((await findOpenOperations(database.db, id)).waiting);
  expect(view?.named.operation).toEqual(view?.waiting);
  expect(view?.snapshot).toEqual(await findSnapshot(database.db, id));
  expect(view?.named.snapshot).toEqual(view?.snapshot);
  expect(
    await readViews(database.db, [{ sandboxId: "none" as SandboxId }, { sandboxId: id }]),
  ).toMatchObject([undefined, { sandbox: { id } }]);
});

/** Text of `apply_plans` from `beginning` to the end of that statement. */
async function statementOf(beginning: string): Promise<string> {
  const [row] = await database.sql`SELECT pg_get_functiondef('apply_plans'::regproc) AS source`;
  const [, statement = ""] = String(row?.["source"]).split(beginning);
  return statement.split(";")[0] ?? "";
}

const columnsOf = async () => {
  const columns = await database.sql`
    SELECT column_name AS name FROM information_schema.columns WHERE table_name = 'sandboxes'`;
  return columns.map(({ name }) => String(name));
};

test("every column that may change is written", async () => {
  const update = await statementOf("UPDATE sandboxes SET");
  const kept = new Set(
    FIXED_COLUMNS.map((key) => key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)),
  );
  const changing = (await columnsOf()).filter((name) => !kept.has(name));
  const unwritten = changing.filter((name) => !new RegExp(`\\b${name} = `).test(update));
  expect(unwritten, "a new column: write it in apply_plans, or list it as fixed").toEqual([]);
});

test("a sandbox is made with every column, and with the defaults of those that came later", async () => {
  const insert = await statementOf("INSERT INTO sandboxes");
  const unwritten = (await columnsOf()).filter((name) => !insert.includes(`row.${name}`));
  expect(unwritten, "a new column: write it in apply_plans").toEqual(["created_at", "updated_at"]);

  await database.sql`ALTER TABLE sandboxes ADD COLUMN later text NOT NULL DEFAULT 'as before'`;
  const made = await acceptCreate(database.db, aSandbox({}), aRequester(database));
  expect(made.kind).toBe("accepted");
  const rows = await database.sql`SELECT DISTINCT later FROM sandboxes`;
  expect(rows).toEqual([{ later: "as before" }]);
  await database.sql`ALTER TABLE sandboxes DROP COLUMN later`;
});
