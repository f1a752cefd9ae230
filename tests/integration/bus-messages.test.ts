/**
 * Publishing and the one consume loop, against a real nats-server that goes away and comes back.
 */
import {
  type Bus,
  connectBus,
  consume,
  ensureConsumer,
  ensureStreams,
  publish,
  type MessageVerdict,
} from "@torpor/bus";
import {
  type ConsumerDefinition,
  decoder,
  type HostId,
  Intent,
  newOperationId,
  newSandboxId,
  SCHEDULER_INTENTS,
  STREAMS,
  subjects,
} from "@torpor/contracts";
import { type NatsServer, silentLog, startNats, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

let server: NatsServer;
let bus: Bus;
beforeAll(async () => {
  server = await startNats();
  bus = await connectBus({ ...server.as(), name: "test" });
  await ensureStreams(bus);
});
afterAll(async () => {
  await bus.close();
  await server[Symbol.asyncDispose]();
});

const CONSUMER: ConsumerDefinition = { ...SCHEDULER_INTENTS, ackWaitMs: 3_000 };

let stopped: AbortController;
let loops: Promise<void>[];
beforeEach(async () => {
  stopped = new AbortController();
  loops = [];
  await (await bus.manager()).streams.purge(CONSUMER.stream);
});
afterEach(async () => {
  stopped.abort();
  await Promise.all(loops);
  await (await bus.manager()).consumers.delete(CONSUMER.stream, CONSUMER.durable);
});

const intent = (): Intent => ({
  type: "intent",
  version: 1,
  kind: "pause",
  operationId: newOperationId(),
  sandboxId: newSandboxId(),
});
const send = (payload: unknown, msgId: string = newOperationId()) =>
  publish(bus, { subject: subjects.intent("pause"), payload, msgId });
const stored = async () =>
  (await (await bus.manager()).streams.info(CONSUMER.stream)).state.messages;

type Given = { laneOf?: (subject: string) => string; noteReadable?: (isReadable: boolean) => void };
type Handle = (message: Intent, delivery: number) => Promise<MessageVerdict>;
function read(handle: Handle, concurrency = 4, given: Given = {}): void {
  const options = {
    ...given,
    consumer: CONSUMER,
    decode: decoder(Intent),
    concurrency,
    signal: stopped.signal,
    log: silentLog(),
  };
  loops.push(
    consume(bus, { ...options, handle: (message, { delivery }) => handle(message, delivery) }),
  );
}

describe("publish", () => {
  test("with the same id, by 10 at once and again later, is stored once", async () => {
    const message = intent();
    const results = await Promise.all(Array.from({ length: 10 }, () => send(message, "same")));
    expect(results.map(({ kind }) => kind).toSorted()).toEqual([
      ...Array.from({ length: 9 }, () => "duplicate"),
      "stored",
    ]);
    expect(await send(message, "same")).toEqual({ kind: "duplicate" });
    expect(await stored()).toBe(1);
    await ensureConsumer(bus, CONSUMER);
  });
});

test("a stream that an earlier version has made becomes what it is now, with what is in it", async () => {
  const { name, subjects: patterns, maxMessagesPerSubject } = STREAMS.OBSERVATIONS;
  const { streams } = await bus.manager();
  await streams.delete(name);
  await streams.add({ name, subjects: [...patterns], retention: "workqueue" });
  await publish(bus, {
    subject: subjects.observation("host-1" as HostId, "running"),
    payload: {},
    msgId: "before",
  });
  await ensureStreams(bus);
  const { config, state } = await streams.info(name);
  expect(config).toMatchObject({
    max_msgs_per_subject: maxMessagesPerSubject,
    discard: "new",
    discard_new_per_subject: true,
  });
  expect(state.messages).toBe(1);
  await ensureConsumer(bus, CONSUMER);
});

describe("consume", () => {
  test("a consumer that an earlier version has defined otherwise becomes what it is now", async () => {
    await ensureConsumer(bus, CONSUMER);
    await ensureConsumer(bus, { ...CONSUMER, ackWaitMs: 7_000, maxAckPending: 9 });
    const { config } = await (
      await bus.manager()
    ).consumers.info(CONSUMER.stream, CONSUMER.durable);
    expect(config).toMatchObject({ ack_wait: 7_000_000_000, max_ack_pending: 9 });
  });

  test("an acknowledged message is gone from the work queue, and did not come twice", async () => {
    await ensureConsumer(bus, CONSUMER);
    const seen: string[] = [];
    read(async ({ operationId }) => {
      seen.push(operationId);
      return "ack";
    });
    const sent = Array.from({ length: 20 }, intent);
    for (const message of sent) await send(message);
    await until("all are done", async () => (await stored()) === 0);
    expect(seen.toSorted()).toEqual(sent.map(({ operationId }) => operationId).toSorted());
  });

  test("C5: messages of one sender wait for its own, not for those of another; those that wait when the loop ends are another's", async () => {
    await ensureConsumer(bus, CONSUMER);
    for (let sent = 0; sent < 200; sent += 1) await send(intent());
    const [stuck, done]: [string[], string[]] = [[], []];
    let release = () => {};
    const released = new Promise<void>((resolve) => (release = resolve));
    const handle = async ({ kind, operationId }: Intent): Promise<MessageVerdict> => {
      (kind === "pause" ? stuck : done).push(operationId);
      if (kind === "pause") await released;
      return "ack";
    };
    read(handle, 4, { laneOf: (subject) => subject });
    await until("its share is at work", () => stuck.length === 2);
    const other = { ...intent(), kind: "resume" as const };
    await publish(bus, {
      subject: subjects.intent("resume"),
      payload: other,
      msgId: other.operationId,
    });
    await until("the other's is done", () => done.length === 1);
    expect(stuck).toHaveLength(2);
    stopped.abort();
    release();
    await Promise.all(loops);
    expect(stuck).toHaveLength(2);
    expect(await stored()).toBe(198);
  });

  test("C2: a handler that throws gets the message again, later each time, until it succeeds", async () => {
    await ensureConsumer(bus, CONSUMER);
    const deliveries: { delivery: number; at: number }[] = [];
    read(async (_, delivery) => {
      deliveries.push({ delivery, at: performance.now() });
      if (delivery < 4) throw new Error("not yet");
      return "ack";
    });
    await send(intent());
    await until("the fourth delivery is acknowledged", async () => (await stored()) === 0);
    expect(deliveries.map(({ delivery }) => delivery)).toEqual([1, 2, 3, 4]);
    const gaps = deliveries.slice(1).map(({ at }, before) => at - (deliveries[before]?.at ?? 0));
    // The broker never delivers before the requested delay: load on the machine can only make a gap
    // longer.
    for (const [at, least] of [400, 800, 1600].entries())
      expect(gaps[at]).toBeGreaterThan(least * 0.95);
  });

  test("C1: what a handler rejects, and what cannot be decoded, is terminated: it does not come again and blocks nothing", async () => {
    await ensureConsumer(bus, CONSUMER);
    const rejected = intent();
    const seen: string[] = [];
    read(async ({ operationId }) => {
      seen.push(operationId);
      return operationId === rejected.operationId ? "reject" : "ack";
    }, 1);
    await send({ type: "intent", version: 2 });
    await send("no intent at all");
    await send(rejected);
    const last = intent();
    await send(last);
    await until("all are gone", async () => (await stored()) === 0);
    expect(seen).toEqual([rejected.operationId, last.operationId]);
  });

  test("C3: while a handler works longer than the server waits for an answer, nobody else gets the message", async () => {
    await ensureConsumer(bus, CONSUMER);
    const deliveries: number[] = [];
    let finish = () => {};
    const finished = new Promise<void>((resolve) => (finish = resolve));
    const handle: Handle = async (_, delivery) => {
      deliveries.push(delivery);
      await finished;
      return "ack";
    };
    read(handle);
    read(handle);
    await send(intent());
    await until("it is being handled", () => deliveries.length === 1);
    // More than twice ackWaitMs.
    await new Promise((resolve) => setTimeout(resolve, CONSUMER.ackWaitMs * 2.5));
    expect(deliveries).toEqual([1]);
    finish();
    await until("it is acknowledged", async () => (await stored()) === 0);
    expect(deliveries).toEqual([1]);
  });

  test("C3: no more handlers run at once than were asked for, and the end waits for those that run", async () => {
    await ensureConsumer(bus, CONSUMER);
    let running = 0;
    let most = 0;
    let ended = 0;
    read(async () => {
      running += 1;
      most = Math.max(most, running);
      await new Promise((resolve) => setTimeout(resolve, 30));
      running -= 1;
      ended += 1;
      return "ack";
    }, 3);
    await Promise.all(Array.from({ length: 12 }, () => send(intent())));
    await until("most are done", () => ended > 6);
    stopped.abort();
    await Promise.all(loops);
    expect(running).toBe(0);
    expect(most).toBeLessThanOrEqual(3);
  });

  test("C4: a loop that was there before its consumer reads from it once it is made", async () => {
    const seen: string[] = [];
    const readable: boolean[] = [];
    const handle = async ({ operationId }: Intent): Promise<MessageVerdict> => {
      seen.push(operationId);
      return "ack";
    };
    read(handle, 4, { noteReadable: (isReadable) => void readable.push(isReadable) });
    const message = intent();
    await send(message);
    await until("it was tried", () => readable.length > 0);
    await ensureConsumer(bus, CONSUMER);
    await until("it was read", () => seen.length > 0);
    expect(seen).toEqual([message.operationId]);
    expect([readable.at(0), readable.at(-1)]).toEqual([false, true]);
  });

  test("S37: kill -9 of the server loses nothing that was stored, and the loop goes on with what was not acknowledged", async () => {
    await ensureConsumer(bus, CONSUMER);
    const acknowledged: string[] = [];
    let isHolding = true;
    read(async ({ operationId }) => {
      if (isHolding) return { kind: "retry", delayMs: 100 };
      acknowledged.push(operationId);
      return "ack";
    });
    const before = intent();
    await send(before);
    await server.stop();
    expect((await send(intent())).kind).toBe("unavailable");
    await server.start();
    isHolding = false;
    const after = intent();
    await until(
      "the server takes messages again",
      async () => (await send(after, "after")).kind !== "unavailable",
    );
    await until("both are done", async () => (await stored()) === 0);
    expect(new Set(acknowledged)).toEqual(new Set([before.operationId, after.operationId]));
  });
});
