/**
 * Quotas of organizations: never exceeded by concurrent requests, and always in agreement with the
 * rows.
 */
import { type HostId, QUOTA_NAMES, type QuotaLimits, type SandboxId } from "@torpor/contracts";
import {
  acceptCreate,
  acceptRequest,
  createOrganization,
  moveOperation,
  openDatabase,
  readQuotas,
  registerHost,
  requestDrain,
  type Requester,
  setQuotas,
  type SandboxRow,
} from "@torpor/db";
import {
  aHost,
  aSandbox,
  makeSandbox,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
  until,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

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

type Verb = Parameters<typeof acceptRequest>[2];

let organizations = 0;
/** Creates an organization with these quotas. */
async function organizationWith(limits: QuotaLimits) {
  organizations += 1;
  const made = await createOrganization(database.db, `organization ${organizations}`);
  if (made === undefined) throw new Error("there is one of that name");
  const organizationId = made.id;
  const { db } = database;
  await setQuotas(db, organizationId, limits, "api-key:1");
  const requester = { organizationId, requestedBy: "api-key:1", deadlineMs: 60_000 };
  return {
    organizationId,
    set: (next: QuotaLimits) => setQuotas(db, organizationId, next, "api-key:1"),
    create: (sandbox = aSandbox(), through = db, given: Partial<Requester> = {}) =>
      acceptCreate(through, sandbox, { ...requester, ...given }),
    ask: (id: SandboxId, verb: Verb, given: Partial<Requester> = {}, through = db) =>
      acceptRequest(through, id, verb, { ...requester, ...given }),
    make: (state: Parameters<typeof makeSandbox>[1]) =>
      makeSandbox({ ...database, organizationId }, state),
    used: async () => (await readQuotas(db, organizationId)).used,
  };
}
const kinds = (answers: { kind: string }[]) =>
  Object.fromEntries(
    [...new Set(answers.map(({ kind }) => kind))].map((kind) => [
      kind,
      answers.filter((answer) => answer.kind === kind).length,
    ]),
  );

describe("requests that race, through two gateways", () => {
  test.each([
    ["running_sandboxes", 5],
    ["sandboxes", 5],
    ["vcpu", 10],
    ["memory_mb", 5 * 64],
    ["disk_mb", 5 * 16 + 15],
    ["creates_per_minute", 5],
    ["waiting_operations", 5],
  ] as const)("Q2: of 40 creates 5 are accepted where %s is %i", async (quota, limit) => {
    const organization = await organizationWith({ [quota]: limit });
    const other = openDatabase(database.url, { maxConnections: 20 });
    try {
      const answers = await Promise.all(
        Array.from({ length: 40 }, (_, at) =>
          organization.create(aSandbox({ vcpu: 2 }), at % 2 === 0 ? database.db : other.db),
        ),
      );
      expect(kinds(answers)).toEqual({ accepted: 5, quota_exceeded: 35 });
      const refused = answers.find((answer) => answer.kind === "quota_exceeded");
      expect(refused).toMatchObject({ quota, limit });
      expect((await organization.used()).sandboxes).toBe(5);
    } finally {
      await other.close();
    }
  });

  test("a create that is repeated while it is accepted is not refused for what it has used", async () => {
    const organization = await organizationWith({ sandboxes: 1 });
    const again = { idempotencyKey: "once", requestSha256: "a".repeat(64) };
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => organization.create(aSandbox(), database.db, again)),
    );
    expect(kinds(answers)).toEqual({ accepted: 10 });
    expect((await organization.used()).sandboxes).toBe(1);
  });

  test("of two that count at the same moment, the second counts what the first has taken", async () => {
    const organization = await organizationWith({ sandboxes: 5 });
    const other = openDatabase(database.url, { maxConnections: 5 });
    const holder = postgres(database.url, { max: 1, onnotice: () => {} });
    try {
      // The lock lets a transaction count and write, but not end.
      await holder`BEGIN`;
      await holder`LOCK TABLE outbox IN SHARE MODE`;
      const answers = [database.db, other.db].flatMap((through) =>
        Array.from({ length: 5 }, () => organization.create(aSandbox(), through)),
      );
      await until("both wait", async () => {
        const waiting = await database.sql`SELECT pid FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock'`;
        return waiting.length > 1;
      });
      await holder`COMMIT`;
      expect(kinds(await Promise.all(answers))).toEqual({ accepted: 5, quota_exceeded: 5 });
    } finally {
      await Promise.all([holder.end({ timeout: 1 }), other.close()]);
    }
  });

  test("creates that come together share a transaction", async () => {
    const organization = await organizationWith({ sandboxes: 20 });
    await Promise.all(Array.from({ length: 21 }, () => organization.create()));
    const [row] = await database.sql`
      SELECT count(*)::int AS creates, count(DISTINCT events.xmin::text)::int AS transactions
      FROM sandbox_events events JOIN sandboxes ON sandboxes.id = sandbox_id
      WHERE organization_id = ${organization.organizationId}`;
    expect(row).toMatchObject({ creates: 20 });
    expect(row?.["transactions"]).toBeLessThan(10);
  });

  test("nobody is refused for what somebody else was granted, and has not used", async () => {
    const organization = await organizationWith({ sandboxes: 2 });
    const same = { idempotencyKey: "same", requestSha256: "a".repeat(64) };
    const answers = await Promise.all([
      organization.create(aSandbox(), database.db, same),
      organization.create(aSandbox(), database.db, same),
      organization.create(),
    ]);
    expect(answers).toMatchObject([
      { kind: "accepted", isNew: true },
      { kind: "accepted", isNew: false },
      { kind: "accepted", isNew: true },
    ]);
    expect((await organization.used()).sandboxes).toBe(2);
  });

  test("resumes and starts count with creates", async () => {
    const organization = await organizationWith({ running_sandboxes: 4 });
    // One after the other: a sandbox counts as running while it is made.
    const six = async (state: "paused" | "stopped") => {
      const made: SandboxRow[] = [];
      while (made.length < 6) made.push(await organization.make(state));
      return made;
    };
    const [paused, stopped] = [await six("paused"), await six("stopped")];
    const answers = await Promise.all([
      ...paused.map(({ id }) => organization.ask(id, "resume")),
      ...stopped.map(({ id }) => organization.ask(id, "start")),
      ...paused.map(() => organization.create()),
    ]);
    expect(kinds(answers)).toEqual({ accepted: 4, quota_exceeded: 14 });
    expect((await organization.used()).running_sandboxes).toBe(4);
  });

  test("the same resume, asked for by many, takes one place", async () => {
    const organization = await organizationWith({ running_sandboxes: 1, waiting_operations: 1 });
    const { id } = await organization.make("paused");
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => organization.ask(id, "resume")),
    );
    expect(kinds(answers)).toEqual({ accepted: 20 });
  });
});

describe("what counts", () => {
  test("Q1: is what the rows say, whatever was asked for and came of it", async () => {
    const organization = await organizationWith({ sandboxes: 100 });
    for (const state of ["running", "paused", "stopped", "error", "deleted"] as const)
      await organization.make(state);
    const created = await organization.create();
    expect(await organization.used()).toEqual({
      running_sandboxes: 2,
      sandboxes: 4,
      vcpu: 2,
      memory_mb: 128,
      disk_mb: 64,
      creates_per_minute: 6,
      waiting_operations: 1,
    });
    // The response has the same numbers as the rows afterwards.
    expect(created).toMatchObject({ quotas: { used: await organization.used() } });
  });

  test("a pause frees the place when it has ended, not when it was asked for", async () => {
    const organization = await organizationWith({ running_sandboxes: 1 });
    const { id } = await organization.make("running");
    await organization.ask(id, "pause");
    expect(await organization.create()).toMatchObject({ quota: "running_sandboxes", needed: 1 });
    await database.sql`UPDATE sandboxes SET state = 'pausing' WHERE id = ${id}`;
    expect((await organization.create()).kind).toBe("quota_exceeded");
    await database.sql`UPDATE sandboxes SET state = 'paused', settled_state = 'paused' WHERE id = ${id}`;
    expect((await organization.create()).kind).toBe("accepted");
  });

  test("a resume that is asked for while its pause is under way needs no other place", async () => {
    const organization = await organizationWith({ running_sandboxes: 1 });
    const { id } = await organization.make("running");
    const pause = await organization.ask(id, "pause");
    if (pause.kind !== "accepted") throw new Error("the pause was not accepted");
    await moveOperation(database.db, pause.operation.id, "begin");
    await database.sql`UPDATE sandboxes SET state = 'pausing' WHERE id = ${id}`;
    expect((await organization.ask(id, "resume")).kind).toBe("accepted");
    expect((await organization.used()).running_sandboxes).toBe(1);
  });

  test("a failed create that left nothing counts no more", async () => {
    const organization = await organizationWith({ sandboxes: 1 });
    const { id } = await organization.make("error");
    await registerHost(database.db, aHost("failing"), 60_000);
    await database.sql`UPDATE sandboxes SET host_id = 'failing' WHERE id = ${id}`;
    expect((await organization.create()).kind).toBe("quota_exceeded");
    await database.sql`UPDATE sandboxes SET host_id = NULL WHERE id = ${id}`;
    expect((await organization.create()).kind).toBe("accepted");
  });

  test("Q4: what a drain has paused counts as running, so that its resume finds its place", async () => {
    const organization = await organizationWith({ running_sandboxes: 1 });
    const { id } = await organization.make("paused");
    await registerHost(database.db, aHost("drained"), 60_000);
    const budget = { maxParallel: 1, maxBytesPerSecond: null, deadlineAt: null };
    await requestDrain(database.db, "drained" as HostId, budget, "api-key:1");
    await database.sql`INSERT INTO drain_sandboxes (drain_id, sandbox_id, owes_resume)
      SELECT id, ${id}, true FROM drains WHERE host_id = 'drained'`;
    expect((await organization.create()).kind).toBe("quota_exceeded");
    expect((await organization.ask(id, "resume")).kind).toBe("accepted");
  });
});

test("pauses, stops and deletes are never refused, and what is refused has changed nothing", async () => {
  const organization = await organizationWith({});
  const { id } = await organization.make("running");
  const other = await organization.make("running");
  await organization.set(Object.fromEntries(QUOTA_NAMES.map((name) => [name, 0])));
  expect((await organization.create()).kind).toBe("quota_exceeded");
  const before = await organization.used();
  expect(before).toMatchObject({ sandboxes: 2, waiting_operations: 0 });
  // Requests that free resources are accepted over any quota.
  expect((await organization.ask(id, "pause")).kind).toBe("accepted");
  expect((await organization.ask(other.id, "stop")).kind).toBe("accepted");
  expect((await organization.ask(id, "delete")).kind).toBe("accepted");
});

test("Q3: without quotas nothing is refused or counted", async () => {
  const organization = await organizationWith({ sandboxes: 0 });
  await organization.set({});
  const created = await organization.create();
  expect(created).toMatchObject({ kind: "accepted", quotas: undefined });
});
