/** From the outbox to the stream: no committed message is lost, and none is stored twice. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, connectBus, ensureStreams } from "@torpor/bus";
import { newOperationId, newSandboxId, STREAMS, subjects } from "@torpor/contracts";
import {
  countRefused,
  inTransaction,
  insertOutbox,
  measureOutbox,
  type OutboxRow,
} from "@torpor/db";
import { Publisher, relayCommitted } from "@torpor/outbox";
import {
  type NatsServer,
  openTestDatabase,
  type Databases,
  silentLog,
  startNats,
  sharedPostgres,
  type TestDatabase,
  until,
} from "@torpor/testkit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

let postgres: Databases;
let nats: NatsServer;
let database: TestDatabase;
let bus: Bus;
beforeAll(async () => {
  postgres = sharedPostgres();
  nats = await startNats();
  database = await openTestDatabase(postgres);
  bus = await connectBus({ ...nats.as(), name: "test" });
  await ensureStreams(bus);
});
afterAll(async () => {
  await bus.close();
  await database[Symbol.asyncDispose]();
  await Promise.all([postgres[Symbol.asyncDispose](), nats[Symbol.asyncDispose]()]);
});
beforeEach(async () => {
  await database.sql`DELETE FROM outbox`;
  await (await bus.manager()).streams.purge(STREAMS.INTENTS.name);
});

/** Leaves unpublished rows that were committed a minute ago. */
async function leave(count: number): Promise<OutboxRow[]> {
  const rows = await inTransaction(database.db, (tx) =>
    insertOutbox(tx, Array.from({ length: count }, message)),
  );
  await database.sql`UPDATE outbox SET created_at = now() - interval '1 minute'`;
  return rows;
}
const message = () => ({
  subject: subjects.intent("pause"),
  payload: {
    type: "intent",
    version: 1,
    kind: "pause",
    operationId: newOperationId(),
    sandboxId: newSandboxId(),
  },
});
/** Publishes like a committer, and waits until the published rows are marked. */
async function publishAtOnce(rows: OutboxRow[]): Promise<void> {
  const publisher = new Publisher({ db: database.db, bus, log: silentLog() });
  await publisher.publish(rows);
  await publisher.idle();
}
const relay = () => relayCommitted({ db: database.db, bus, log: silentLog() });
const unpublished = async () =>
  (await database.sql`SELECT id FROM outbox WHERE published_at IS NULL`).length;
const stored = async () =>
  (await (await bus.manager()).streams.info(STREAMS.INTENTS.name)).state.messages;

test("while NATS is away the committer does not fail, and the relay publishes what it left once NATS is back", async () => {
  const rows = await leave(5);
  await nats.stop();
  await publishAtOnce(rows);
  expect(await unpublished()).toBe(5);
  expect(await relay()).toEqual({ taken: 5, published: 0 });
  await nats.start();
  await until("the relay has published all", async () => {
    await relay();
    return (await unpublished()) === 0;
  });
  expect(await stored()).toBe(5);
});

test("what the committer publishes at once is left alone by the relay", async () => {
  const rows = await leave(3);
  await publishAtOnce(rows);
  expect(await relay()).toEqual({ taken: 0, published: 0 });
  expect(await stored()).toBe(3);
});

test("a row that is fresh is its committer's to publish", async () => {
  await inTransaction(database.db, (tx) => insertOutbox(tx, [message()]));
  expect(await relay()).toEqual({ taken: 0, published: 0 });
});

test("two relays share the work: each row is taken by one, all are published, none is stored twice", async () => {
  await leave(600);
  // Both relays have a connection, so neither is done before the other begins.
  await Promise.all([1, 2].map(() => inTransaction(database.db, () => sleep(100))));
  const round = async () => {
    let taken = 0;
    for (;;) {
      const result = await relay();
      taken += result.taken;
      if (result.taken === 0) return taken;
    }
  };
  const shares = await Promise.all([round(), round()]);
  expect(shares.reduce((sum, share) => sum + share, 0)).toBe(600);
  expect([await unpublished(), await stored()]).toEqual([0, 600]);
});

test("OB1: a relay that dies after the broker has stored a message publishes it again under the same id, and it is stored once", async () => {
  const rows = await leave(4);
  await relay();
  await database.sql`UPDATE outbox SET published_at = NULL WHERE id IN ${database.sql(rows.slice(0, 2).map(({ id }) => id))}`;
  expect(await relay()).toEqual({ taken: 2, published: 2 });
  expect([await unpublished(), await stored()]).toEqual([0, 4]);
});

test("a message that no server will ever take is set aside with the reason, and holds up no other", async () => {
  const rows = await inTransaction(database.db, (tx) =>
    insertOutbox(tx, [
      { ...message(), payload: { text: "x".repeat(1024 ** 2) } },
      { ...message(), subject: "torpor.v1.intent.a b" },
      message(),
      message(),
    ]),
  );
  await publishAtOnce(rows.slice(0, 3));
  await database.sql`UPDATE outbox SET created_at = now() - interval '1 minute'`;
  expect(await relay()).toEqual({ taken: 1, published: 1 });
  expect(await stored()).toBe(2);
  expect(await countRefused(database.db)).toBe(2);
  const refused =
    await database.sql`SELECT refused_because FROM outbox WHERE published_at IS NULL ORDER BY id`;
  expect(refused.map((row) => String(row["refused_because"]))).toEqual([
    expect.stringMatching(/it has \d+ bytes, and the server takes \d+/),
    expect.stringMatching(/is no subject/),
  ]);
});

test("OB3: what waits for a stream that is missing is in nobody's way, however much it is and however old", async () => {
  const event = () => ({ subject: subjects.sandboxEvent(newSandboxId(), "paused"), payload: {} });
  await (await bus.manager()).streams.delete(STREAMS.EVENTS.name);
  await inTransaction(database.db, (tx) => insertOutbox(tx, Array.from({ length: 450 }, event)));
  // More rows than a relay takes at once, for a stream that accepts all of them.
  await leave(250);
  expect(await relay()).toEqual({ taken: 450, published: 250 });
  expect([await stored(), await unpublished()]).toEqual([250, 450]);
  expect(await measureOutbox(database.db)).toMatchObject({ count: 450, isCounted: true });
  await ensureStreams(bus);
  expect(await relay()).toEqual({ taken: 450, published: 450 });
  expect(await measureOutbox(database.db)).toBeUndefined();
});

test("OB2: a stream that is missing holds up no message of another, and committers wait for it once", async () => {
  const sandboxId = newSandboxId();
  const subject = subjects.sandboxEvent(sandboxId, "paused");
  let heard = 0;
  // A gateway listens, so the server does not report that no stream takes the subject.
  const listening = bus.connection.subscribe(subject, { callback: () => void (heard += 1) });
  await (await bus.manager()).streams.delete(STREAMS.EVENTS.name);
  const commit = async () => {
    const event = { subject, payload: { type: "event" } };
    const rows = await inTransaction(database.db, (tx) => insertOutbox(tx, [event, message()]));
    await publishAtOnce(rows);
  };
  await commit();
  expect([heard, await stored(), await unpublished()]).toEqual([1, 1, 1]);
  await commit();
  expect([heard, await stored(), await unpublished()]).toEqual([1, 2, 2]);
  await ensureStreams(bus);
  await database.sql`UPDATE outbox SET created_at = now() - interval '1 minute'`;
  expect(await relay()).toEqual({ taken: 2, published: 2 });
  await commit();
  expect(await unpublished()).toBe(0);
  listening.unsubscribe();
});
