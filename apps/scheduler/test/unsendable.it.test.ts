/**
 * A message that no server will ever accept: its operation ends with the reason, and operators see
 * it. Real Postgres and NATS.
 */
import { markOutcomes, pruneRefused, summarizeRefused } from "@torpor/db";
import { type Databases, sharedPostgres, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { endUnsendable } from "../src/operations/end-unsendable.ts";
import { ControlPlane } from "./support/control-plane.ts";
import { Decisions } from "./support/decisions.ts";
import { ScriptedHost } from "./support/scripted-host.ts";

const MIB = 1024 ** 2;
const DAY_MS = 24 * 3_600_000;

describe("over a bus", () => {
  let plane: ControlPlane;
  let host: ScriptedHost;
  beforeAll(async () => {
    plane = await ControlPlane.start(["host-1"]);
    host = await ScriptedHost.join(plane.nats, "host-1");
    host.isDiligent = true;
  });
  afterAll(async () => {
    await host[Symbol.asyncDispose]();
    await plane[Symbol.asyncDispose]();
  });

  test("a command that is too large ends its operation with the reason, long before its deadline; others go on, and the health report has it", async () => {
    expect(plane.problems()).toEqual([]);
    const create = await plane.create(
      { envVars: { TEXT: "x".repeat(MIB) } },
      { deadlineMs: 600_000 },
    );
    const failed = await plane.becomes(create.id, "failed");
    expect(failed.error).toMatchObject({
      code: "MESSAGE_NOT_SENDABLE",
      message: expect.stringMatching(
        /^The create was not carried out: its message to host host-1 can never be sent, because it has \d+ bytes, and the server takes \d+\./,
      ),
    });
    expect(await plane.sandbox(create.sandboxId)).toMatchObject({
      state: "error",
      holdsMemory: false,
      error: { code: "MESSAGE_NOT_SENDABLE" },
    });
    expect(host.commands.some(({ operationId }) => operationId === create.id)).toBe(false);
    const next = await plane.create();
    await plane.becomes(next.id, "succeeded");
    const problem = await until("it is reported", async () => {
      await plane.round("measure-outbox");
      return plane.problems().find(({ code }) => code === "MESSAGES_REFUSED");
    });
    expect(problem).toMatchObject({
      subject: "outbox",
      message: expect.stringMatching(
        /^1 messages .* the newest, to torpor\.v1\.host\.host-1\.cmd\.create, because it has \d+ bytes/,
      ),
    });
  });
});

describe("what it waits for", () => {
  let server: Databases;
  let scheduler: Decisions;
  beforeAll(async () => {
    server = sharedPostgres();
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    scheduler = await Decisions.over(server);
    await scheduler.join("home");
  });
  afterEach(async () => {
    await scheduler[Symbol.asyncDispose]();
  });

  /** Sets the message aside, as the relay does. */
  const refuse = async (operationId: string, type: string) => {
    const { sql, db } = scheduler.database;
    const rows =
      await sql`SELECT id FROM outbox WHERE payload->>'operationId' = ${operationId} AND payload->>'type' = ${type}`;
    expect(rows.length).toBeGreaterThan(0);
    const refused = rows.map((row) => ({ id: Number(row["id"]), reason: "it is too large" }));
    await markOutcomes(db, [{ published: [], refused }]);
  };
  const end = () => endUnsendable(scheduler.deps);

  test("a command that was set aside: the sandbox is where it was, and holds no more than before", async () => {
    const { id } = await scheduler.paused();
    const { id: operationId } = await scheduler.begin(id, "resume");
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "resuming", holdsMemory: true });
    await refuse(operationId, "command");
    expect(await end()).toEqual({ stuck: 1, ended: 1 });
    expect(await scheduler.operation(operationId)).toMatchObject({
      status: "failed",
      error: { code: "MESSAGE_NOT_SENDABLE" },
    });
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "paused", holdsMemory: false });
    for (const { used, sum } of await scheduler.used()) expect(used).toEqual(sum);
    expect(await end()).toEqual({ stuck: 0, ended: 0 });
    // The message that was not sent is another operation's.
    const again = await scheduler.begin(id, "resume");
    await scheduler.complete(again.id, { state: "running" });
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "running" });
  });

  test("an intent that was set aside: nothing begins", async () => {
    const { id } = await scheduler.paused();
    const asked = await scheduler.ask(id, "resume");
    if (asked.kind !== "accepted") throw new Error(asked.kind);
    await refuse(asked.operation.id, "intent");
    expect(await end()).toEqual({ stuck: 1, ended: 1 });
    expect(await scheduler.operation(asked.operation.id)).toMatchObject({
      status: "failed",
      error: { message: expect.stringMatching(/its message to the schedulers can never be sent/) },
    });
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "paused" });
  });

  test("what has what it needs goes on: an intent of what has begun, an event, and what has committed", async () => {
    const { id } = await scheduler.paused();
    const { id: operationId } = await scheduler.begin(id, "resume");
    await refuse(operationId, "intent");
    await refuse(operationId, "sandbox_event");
    expect(await end()).toEqual({ stuck: 0, ended: 0 });
    expect(await scheduler.commit(operationId)).toBe(true);
    await refuse(operationId, "command");
    expect(await end()).toEqual({ stuck: 0, ended: 0 });
    await scheduler.apply(await scheduler.seenOf(operationId, { state: "running" }));
    expect(await scheduler.operation(operationId)).toMatchObject({ status: "succeeded" });
  });

  test("they are kept for a while, the newest thousand, and summed up for a day", async () => {
    const { sql, db } = scheduler.database;
    expect(await summarizeRefused(db, DAY_MS)).toBeUndefined();
    await sql`INSERT INTO outbox (subject, payload, refused_because, created_at)
      SELECT 's' || n, '{}', 'r' || n, now() - (2000 - n) * interval '1 minute' FROM generate_series(1, 2000) n`;
    expect(await summarizeRefused(db, DAY_MS)).toMatchObject({
      count: 1_000,
      newest: { subject: "s2000", reason: "r2000" },
    });
    expect(await pruneRefused(db, 30 * DAY_MS)).toBe(1_000);
    expect(await pruneRefused(db, 3_600_000)).toBe(940);
    expect(await summarizeRefused(db, DAY_MS)).toMatchObject({ count: 60 });
  });
});
