/**
 * What the gateway writes, under concurrency: each race has the one outcome that the rules of
 * admission give, whichever request is first.
 */
import { type HostId, NO_OPERATION_ID, type OperationId, type SandboxId } from "@torpor/contracts";
import {
  acceptCreate,
  acceptRequest,
  DRAINER,
  findOpenOperations,
  findOperation,
  moveOperation,
  registerHost,
  requestDrain,
  type Requester,
} from "@torpor/db";
import {
  applyEffects,
  aHost,
  aRequester,
  aSandbox,
  makeSandbox,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
  until,
} from "@torpor/testkit";
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

const HOST_1 = "host-1" as HostId;
const NOBODY = "1763309903nobody00" as SandboxId;

const times = <T>(count: number, one: (at: number) => Promise<T>) =>
  Promise.all(Array.from({ length: count }, (_, at) => one(at)));
const ask = (sandboxId: SandboxId, verb: Verb, given: Partial<Requester> = {}) =>
  acceptRequest(database.db, sandboxId, verb, aRequester(database, given));
/** Accepts an operation and begins it. Returns its id. */
async function execute(sandboxId: SandboxId, verb: Verb): Promise<OperationId> {
  const asked = await ask(sandboxId, verb);
  if (asked.kind !== "accepted") throw new Error(`the ${verb} was not accepted: ${asked.kind}`);
  await moveOperation(database.db, asked.operation.id, "begin");
  return asked.operation.id;
}

describe("requests that race", () => {
  test("S31: of 20 identical pauses one makes the operation and announces it, all others join it", async () => {
    const { id } = await makeSandbox(database, "running");
    const answers = await times(20, () => ask(id, "pause"));
    expect(answers.map((answer) => answer.kind)).toEqual(
      Array.from({ length: 20 }, () => "accepted"),
    );
    const accepted = answers.flatMap((answer) => (answer.kind === "accepted" ? [answer] : []));
    expect(new Set(accepted.map(({ operation }) => operation.id)).size).toBe(1);
    expect(accepted.filter(({ isNew }) => isNew)).toHaveLength(1);
    expect(accepted.flatMap(({ messages }) => messages)).toHaveLength(1);
    expect(
      await database.sql`SELECT id FROM outbox WHERE subject = 'torpor.v1.intent.pause' AND payload->>'sandboxId' = ${id}`,
    ).toHaveLength(1);
  });

  test("S24: while a pause executes one stop waits, and every start is refused naming it", async () => {
    const { id } = await makeSandbox(database, "running");
    await execute(id, "pause");
    const stop = await ask(id, "stop");
    if (stop.kind !== "accepted") throw new Error(stop.kind);
    const [stops, starts] = await Promise.all([
      times(10, () => ask(id, "stop")),
      times(10, () => ask(id, "start")),
    ]);
    for (const answer of stops)
      expect(answer).toMatchObject({
        kind: "accepted",
        isNew: false,
        operation: { id: stop.operation.id },
      });
    for (const answer of starts)
      expect(answer).toMatchObject({
        kind: "blocked",
        by: { id: stop.operation.id, kind: "stop" },
      });
  });

  test("of resumes and stops that race behind a pause, one kind waits and the other is refused", async () => {
    const { id } = await makeSandbox(database, "running");
    await execute(id, "pause");
    const answers = await times(20, async (at) => ({
      verb: at % 2 === 0 ? "resume" : "stop",
      answer: await ask(id, at % 2 === 0 ? "resume" : "stop"),
    }));
    const winner = answers.find(({ answer }) => answer.kind === "accepted" && answer.isNew);
    for (const { verb, answer } of answers)
      expect(answer.kind === "accepted").toBe(verb === winner?.verb);
    const open = await database.sql`SELECT kind, status FROM operations
      WHERE sandbox_id = ${id} AND status IN ('waiting', 'executing') ORDER BY status`;
    expect([...open]).toEqual([
      { kind: "pause", status: "executing" },
      { kind: winner?.verb, status: "waiting" },
    ]);
  });

  test("S21: a resume asks the pause that has not committed to back out, and no other operation", async () => {
    const { id } = await makeSandbox(database, "running");
    const pause = await execute(id, "pause");
    await ask(id, "resume");
    expect((await findOperation(database.db, pause))?.cancelRequestedAt).not.toBeNull();

    const other = await makeSandbox(database, "running");
    const stop = await execute(other.id, "stop");
    await ask(other.id, "start");
    expect((await findOperation(database.db, stop))?.cancelRequestedAt).toBeNull();
  });

  test("S10: of 10 deletes one is made; it replaces what waits and cancels what executes", async () => {
    const { id } = await makeSandbox(database, "running");
    const pause = await execute(id, "pause");
    const stop = await ask(id, "stop");
    if (stop.kind !== "accepted") throw new Error(stop.kind);
    const deletes = await times(10, () => ask(id, "delete"));
    expect(deletes.filter((answer) => answer.kind === "accepted" && answer.isNew)).toHaveLength(1);
    expect(await findOperation(database.db, stop.operation.id)).toMatchObject({
      status: "superseded",
      error: { code: "OPERATION_SUPERSEDED" },
    });
    expect((await findOperation(database.db, pause))?.cancelRequestedAt).not.toBeNull();
    expect(await ask(id, "pause")).toEqual({ kind: "not_found" });
  });

  test("a sandbox of another organization is not found, and not touched", async () => {
    const { id } = await makeSandbox(database, "running");
    expect(await ask(id, "pause", { organizationId: database.organizationId + 1 })).toEqual({
      kind: "not_found",
    });
    expect(
      await database.sql`SELECT id FROM operations WHERE sandbox_id = ${id} AND kind = 'pause'`,
    ).toHaveLength(0);
  });
});

describe("what users ask for while a drain is at work", () => {
  type Verdict = {
    /** Response to the user. */
    answer: "joins" | "new" | "satisfied" | "conflict";
    /** Outcome of the drain's operation. */
    drains: "goes on" | "theirs" | "superseded" | "asked to back out";
  };
  const drainer = { requestedBy: DRAINER };
  // oxfmt-ignore
  const CASES: [stage: string, verb: Verb, verdict: Verdict][] = [
    ["waiting pause",    "pause",  { answer: "joins",     drains: "theirs" }],
    ["waiting pause",    "resume", { answer: "satisfied", drains: "superseded" }],
    ["waiting pause",    "stop",   { answer: "new",       drains: "superseded" }],
    ["waiting pause",    "start",  { answer: "satisfied", drains: "superseded" }],
    ["waiting pause",    "delete", { answer: "new",       drains: "superseded" }],
    ["executing pause",  "pause",  { answer: "joins",     drains: "theirs" }],
    ["executing pause",  "resume", { answer: "new",       drains: "asked to back out" }],
    ["executing pause",  "stop",   { answer: "new",       drains: "goes on" }],
    ["executing pause",  "start",  { answer: "conflict",  drains: "goes on" }],
    ["executing pause",  "delete", { answer: "new",       drains: "asked to back out" }],
    ["waiting resume",   "pause",  { answer: "satisfied", drains: "superseded" }],
    ["waiting resume",   "resume", { answer: "joins",     drains: "theirs" }],
    ["waiting resume",   "stop",   { answer: "new",       drains: "superseded" }],
    ["waiting resume",   "start",  { answer: "joins",     drains: "theirs" }],
    ["waiting resume",   "delete", { answer: "new",       drains: "superseded" }],
    ["executing resume", "pause",  { answer: "new",       drains: "goes on" }],
    ["executing resume", "resume", { answer: "joins",     drains: "theirs" }],
    ["executing resume", "stop",   { answer: "new",       drains: "goes on" }],
    ["executing resume", "start",  { answer: "joins",     drains: "theirs" }],
    ["executing resume", "delete", { answer: "new",       drains: "asked to back out" }],
  ];

  async function atStage(stage: string): Promise<{ id: SandboxId; operationId: OperationId }> {
    const [status, kind] = stage.split(" ") as ["waiting" | "executing", "pause" | "resume"];
    const { id } = await makeSandbox(database, kind === "pause" ? "running" : "paused");
    const pin = kind === "resume" ? { pinnedHostId: HOST_1 } : {};
    const asked = await ask(id, kind, { ...drainer, ...pin });
    if (asked.kind !== "accepted") throw new Error(asked.kind);
    if (status === "executing") await moveOperation(database.db, asked.operation.id, "begin");
    return { id, operationId: asked.operation.id };
  }

  test.each(CASES)("%s of the drain, %s of a user", async (stage, verb, { answer, drains }) => {
    const { id, operationId } = await atStage(stage);
    const given = await ask(id, verb);
    const kinds = {
      joins: "accepted",
      new: "accepted",
      satisfied: "satisfied",
      conflict: "conflict",
    };
    expect(given).toMatchObject({ kind: kinds[answer] });
    if (given.kind === "accepted") {
      expect(given.isNew).toBe(answer === "new");
      expect(given.operation.requestedBy).not.toBe(DRAINER);
      if (answer === "joins")
        expect(given.operation).toMatchObject({
          id: operationId,
          requestedBy: aRequester(database).requestedBy,
        });
    }
    if (given.kind === "satisfied")
      expect(given.state).toBe(stage.endsWith("pause") ? "running" : "paused");
    const operation = await findOperation(database.db, operationId);
    const isOpen = operation?.status === stage.split(" ")[0];
    expect(isOpen, operation?.status).toBe(drains !== "superseded");
    expect(operation?.cancelRequestedAt !== null).toBe(drains === "asked to back out");
    expect(operation?.requestedBy === DRAINER).toBe(drains !== "theirs");
    if (drains === "theirs" && operation?.status === "waiting")
      expect(operation.pinnedHostId, "on any host").toBeNull();
    if (drains === "superseded")
      expect(operation).toMatchObject({
        status: "superseded",
        error: { code: "OPERATION_SUPERSEDED" },
      });
  });

  test("a pause asked for while the drain takes its own one back follows it", async () => {
    const { id, operationId } = await atStage("executing pause");
    const undo = await ask(id, "resume", { ...drainer, pinnedHostId: HOST_1 });
    if (undo.kind !== "accepted") throw new Error(undo.kind);
    expect(await ask(id, "pause")).toMatchObject({ kind: "accepted", isNew: true });
    expect(await findOperation(database.db, undo.operation.id)).toMatchObject({
      status: "superseded",
    });
    expect(await findOpenOperations(database.db, id)).toMatchObject({
      executing: { id: operationId },
      waiting: { kind: "pause" },
    });
  });

  test("what a user has joined is no longer the drain's: a further user's request is judged as behind a user's", async () => {
    const { id, operationId } = await atStage("waiting pause");
    await ask(id, "pause");
    expect(await ask(id, "resume")).toMatchObject({
      kind: "blocked",
      by: { id: operationId, kind: "pause" },
    });
  });

  test("a pause for an idle sandbox takes nothing over: whether it is idle is not known", async () => {
    const { id, operationId } = await atStage("waiting pause");
    const idle = { requestedBy: "system:auto-pause", onlyIfIdleForMs: 60_000 };
    expect(await ask(id, "pause", idle)).toMatchObject({ kind: "accepted", isNew: false });
    expect(await findOperation(database.db, operationId)).toMatchObject({
      requestedBy: DRAINER,
      onlyIfIdleForMs: null,
    });
  });

  test("a request that replaces an operation and a scheduler that begins it do not wait for each other", async () => {
    const { id, operationId } = await atStage("waiting pause");
    const begun = await database.sql.begin(async (sql) => {
      await sql`SELECT 1 FROM sandboxes WHERE id = ${id} FOR NO KEY UPDATE`;
      const begin = database.db.transaction(async (tx) => {
        const begun = await moveOperation(tx, operationId, "begin");
        await tx.execute(`UPDATE sandboxes SET updated_at = now() WHERE id = '${id}'`);
        return begun;
      });
      await until("the scheduler waits for the sandbox", async () => {
        const waits = await database.sql`SELECT 1 FROM pg_stat_activity
          WHERE wait_event_type = 'Lock' AND datname = current_database()`;
        return waits.length > 0;
      });
      await sql`UPDATE operations SET status = 'superseded', ended_at = now() WHERE id = ${operationId}`;
      return { begin };
    });
    expect(await begun.begin, "it was replaced before").toBeUndefined();
  });
});

describe("what is owed to a sandbox: the resume after a drain, and its restore", () => {
  const owed = async (id: SandboxId) => {
    const [row] =
      await database.sql`SELECT owes_resume AS drain, restore_due_at IS NOT NULL AS restore
      FROM drain_sandboxes JOIN incarnations USING (sandbox_id) WHERE sandbox_id = ${id}`;
    return row;
  };
  async function owing(state: "paused" | "stopped"): Promise<SandboxId> {
    const { id } = await makeSandbox(database, state);
    await applyEffects(database, id, {
      beginsRun: { epoch: 1, hostId: HOST_1, onHostLoss: "restore" },
    });
    await applyEffects(database, id, { owesRestore: 1 });
    await registerHost(database.db, aHost(`drained-${id}`), 600_000);
    await requestDrain(
      database.db,
      `drained-${id}` as HostId,
      { maxParallel: 1, maxBytesPerSecond: null, deadlineAt: null },
      "test",
    );
    await database.sql`INSERT INTO drain_sandboxes (drain_id, sandbox_id, owes_resume)
      SELECT id, ${id}, true FROM drains WHERE host_id = ${`drained-${id}`}`;
    expect(await owed(id)).toEqual({ drain: true, restore: true });
    return id;
  }

  test("stays owed when a pause or a stop is refused", async () => {
    const waiting = await owing("paused");
    await ask(waiting, "resume", { requestedBy: "system:host-loss" });
    for (const verb of ["pause", "stop"] as const)
      expect(await ask(waiting, verb)).toMatchObject({ kind: "blocked" });
    expect(await owed(waiting)).toEqual({ drain: true, restore: true });
    const stopped = await owing("stopped");
    expect(await ask(stopped, "pause")).toMatchObject({ kind: "conflict" });
    expect(await owed(stopped)).toEqual({ drain: true, restore: true });
  });

  test.each<[string, Verb | undefined, Verb, string]>([
    ["is there already", undefined, "pause", "satisfied"],
    ["is joined", "stop", "stop", "accepted"],
    ["is new", undefined, "stop", "accepted"],
  ])("is forgotten when what its owner wants %s", async (_, before, verb, kind) => {
    const id = await owing("paused");
    if (before !== undefined) await execute(id, before);
    // The executing operation has ended the pending restore, so the restore is made pending again.
    await applyEffects(database, id, { owesRestore: 1 });
    expect(await ask(id, verb)).toMatchObject({ kind });
    expect(await owed(id)).toEqual({ drain: verb === "stop", restore: false });
  });
});

describe("idempotency keys", () => {
  let keys = 0;
  const newKey = () => ({ idempotencyKey: `key-${(keys += 1)}`, requestSha256: "one" });
  const create = (given: Partial<Requester>, sandbox = aSandbox()) =>
    acceptCreate(database.db, sandbox, aRequester(database, given));

  test("S27: 10 creates with one key make one sandbox, and all are told of it", async () => {
    const key = newKey();
    const before = await database.sql`SELECT id FROM sandboxes`;
    const answers = await times(10, () => create(key));
    const ids = answers.map((answer) =>
      answer.kind === "accepted" ? answer.operation.sandboxId : answer.kind,
    );
    expect(new Set(ids).size).toBe(1);
    expect(answers.filter((answer) => answer.kind === "accepted" && answer.isNew)).toHaveLength(1);
    expect(await database.sql`SELECT id FROM sandboxes`).toHaveLength(before.length + 1);
  });

  test("10 pauses with one key make one operation, and a repeat finds it after its end", async () => {
    const key = newKey();
    const { id } = await makeSandbox(database, "running");
    const answers = await times(10, () => ask(id, "pause", key));
    const ids = new Set(
      answers.map((answer) => (answer.kind === "accepted" ? answer.operation.id : NO_OPERATION_ID)),
    );
    expect(ids.size).toBe(1);
    const [operationId = NO_OPERATION_ID] = ids;
    await moveOperation(database.db, operationId, "fail", { error: { code: "X", message: "x" } });
    expect(await ask(id, "pause", key)).toMatchObject({
      isNew: false,
      operation: { id: operationId, status: "failed" },
    });
    expect(
      await database.sql`SELECT id FROM operations WHERE sandbox_id = ${id} AND kind = 'pause'`,
    ).toHaveLength(1);
  });

  test("a key that was used before is told so, also when it comes with a sandbox that there is none of", async () => {
    const key = newKey();
    const { id } = await makeSandbox(database, "running");
    expect(await ask(id, "pause", key)).toMatchObject({ kind: "accepted" });
    expect(await ask(NOBODY, "pause", { ...key, requestSha256: "of another request" })).toEqual({
      kind: "key_reused",
    });
    expect(await ask(NOBODY, "pause", newKey())).toEqual({ kind: "not_found" });
    expect(await ask(NOBODY, "pause")).toEqual({ kind: "not_found" });
  });

  test("one key raced by different requests serves one of them and refuses the others", async () => {
    const [key, createKey] = [newKey(), newKey()];
    const made = await times(10, () => makeSandbox(database, "running"));
    const answers = await Promise.all(
      made.map(({ id }, at) => ask(id, "pause", { ...key, requestSha256: `request ${at}` })),
    );
    expect(answers.map(({ kind }) => kind).toSorted()).toEqual([
      "accepted",
      ...Array.from({ length: 9 }, () => "key_reused"),
    ]);

    const creates = await times(10, (at) =>
      create({ ...createKey, requestSha256: `request ${at}` }),
    );
    expect(creates.map(({ kind }) => kind).toSorted()).toEqual([
      "accepted",
      ...Array.from({ length: 9 }, () => "key_reused"),
    ]);
  });

  test("the same key of another organization is another key", async () => {
    await database.sql`INSERT INTO organizations (name) VALUES ('other')`;
    const key = newKey();
    const mine = await create(key);
    const theirs = await create({ ...key, organizationId: database.organizationId + 1 });
    expect([mine, theirs]).toMatchObject([{ isNew: true }, { isNew: true }]);
  });

  test("two creates that chose one address: one is told to choose another", async () => {
    const answers = await times(2, () => create({}, aSandbox({ edgeAddress: "127.99.0.1" })));
    expect(answers.map(({ kind }) => kind).toSorted()).toEqual(["accepted", "address_taken"]);
  });
});
