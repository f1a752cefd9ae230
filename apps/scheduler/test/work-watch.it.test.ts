/** A scheduler's health report about work that has stopped, over a real bus and database. */
import { publish, restoreMissing } from "@torpor/bus";
import {
  hostCommands,
  type HostId,
  SCHEDULER_INTENTS,
  SCHEDULER_OBSERVATIONS,
  subjects,
} from "@torpor/contracts";
import { registerHost } from "@torpor/db";
import { aHost } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import { WorkWatch } from "../src/work-watch.ts";
import { ControlPlane } from "./support/control-plane.ts";

const HOST_1 = "host-1" as HostId;

let plane: ControlPlane;
beforeAll(async () => {
  plane = await ControlPlane.start(["host-1"]);
});
afterAll(async () => {
  await plane[Symbol.asyncDispose]();
});

afterEach(() => {
  vi.restoreAllMocks();
});

const codes = () => plane.problems().map(({ code, subject }) => `${code} ${subject}`);

test("commands that a host leaves unread are a problem until they are acknowledged", async () => {
  const commands = hostCommands(HOST_1);
  const wanted = [SCHEDULER_INTENTS, SCHEDULER_OBSERVATIONS, commands];
  const look = async () => (await restoreMissing(plane.bus, wanted)).states;
  const watch = new WorkWatch();
  await look();
  const command = { subject: subjects.command(HOST_1, "pause"), payload: {}, msgId: "1" };
  expect(await publish(plane.bus, command)).toEqual({ kind: "stored" });
  watch.noteConsumers(await look(), [HOST_1], 0);
  expect(watch.problems()).toEqual([]);
  watch.noteConsumers(await look(), [HOST_1], 15_000);
  expect(watch.problems()).toMatchObject([
    { code: "HOST_TAKES_NO_COMMANDS", subject: "host-host-1" },
  ]);
  watch.noteConsumers(await look(), [], 16_000);
  expect(watch.problems(), "of a host that is lost it is known").toEqual([]);
  const consumer = await plane.bus.jetstream.consumers.get(commands.stream, commands.durable);
  const message = await consumer.next({ expires: 5_000 });
  watch.noteConsumers(await look(), [HOST_1], 20_000);
  watch.noteConsumers(await look(), [HOST_1], 35_000);
  expect(watch.problems(), "though it has it").toHaveLength(1);
  await message?.ackAck();
  watch.noteConsumers(await look(), [HOST_1], 36_000);
  expect(watch.problems()).toEqual([]);
});

test("a scheduler looks at its consumers, and at those of the hosts that are there", async () => {
  const { db, sql } = plane.database;
  await registerHost(db, aHost("host-1"), 3_600_000);
  const command = { subject: subjects.command(HOST_1, "pause"), payload: {}, msgId: "2" };
  expect(await publish(plane.bus, command)).toEqual({ kind: "stored" });
  await plane.round("restore-bus");
  expect(codes()).toEqual([]);
  const now = Date.now();
  vi.spyOn(Date, "now").mockImplementation(() => now + 60_000);
  await plane.round("restore-bus");
  expect(codes()).toEqual(["HOST_TAKES_NO_COMMANDS host-host-1"]);
  await sql`UPDATE hosts SET state = 'lost', state_before_lost = 'ready'`;
  await plane.round("restore-bus");
  expect(codes()).toEqual([]);
});

test("an outbox that does not empty is one, until it does", async () => {
  const { sql } = plane.database;
  await plane.round("measure-outbox");
  expect(codes()).toEqual([]);
  await sql`INSERT INTO outbox (subject, payload, created_at)
    VALUES ('torpor.v1.nowhere', '{}', now() - interval '1 minute')`;
  await plane.round("measure-outbox");
  expect(codes()).toEqual(["OUTBOX_GROWS outbox"]);
  await sql`UPDATE outbox SET published_at = now() WHERE subject = 'torpor.v1.nowhere'`;
  await plane.round("measure-outbox");
  expect(codes()).toEqual([]);
});

test("a reconciler whose rounds fail is one, until one succeeds", async () => {
  const { sql } = plane.database;
  await plane.round("prune-outbox");
  await sql`ALTER TABLE audit_entries RENAME TO audit_entries_away`;
  await plane.round("prune-outbox");
  expect(codes()).toEqual(["ROUNDS_FAIL prune-outbox"]);
  const [problem] = plane.problems();
  expect(problem?.message).toMatch(/audit_entries/);
  expect(problem?.message).toMatch(/last succeeded at 2/);
  await sql`ALTER TABLE audit_entries_away RENAME TO audit_entries`;
  await plane.round("prune-outbox");
  expect(codes()).toEqual([]);
});
