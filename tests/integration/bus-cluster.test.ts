/**
 * Streams on a NATS cluster: as many replicas as requested, and no acknowledged message is lost
 * with any one server.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, connectBus, consume, ensureConsumer, ensureStreams, publish } from "@torpor/bus";
import {
  decoder,
  type HostId,
  Intent,
  newOperationId,
  newSandboxId,
  SCHEDULER_INTENTS,
  STREAMS,
  subjects,
} from "@torpor/contracts";
import {
  silentLog,
  startNats,
  startNatsCluster,
  type TestNatsCluster,
  until,
} from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

const SIZE = 3;
/** Elections take several seconds, and several times as long on a busy machine. */
const ELECTION_LIMIT_MS = 120_000;
const CONSUMER = { ...SCHEDULER_INTENTS, ackWaitMs: 2_000, maxDeliver: -1 };

let cluster: TestNatsCluster;
let bus: Bus;
beforeAll(async () => {
  cluster = await startNatsCluster(SIZE);
  bus = await connectBus({ ...cluster.as(), name: "test" });
});
afterAll(async () => {
  await bus.close();
  await cluster[Symbol.asyncDispose]();
});

/** Number of servers of each stream, and how many of them are up to date. */
async function replicas(): Promise<Record<string, { wanted: number; current: number }>> {
  const manager = await bus.manager();
  const infos = await Promise.all(
    Object.values(STREAMS).map(({ name }) => manager.streams.info(name)),
  );
  return Object.fromEntries(
    infos.map(({ config, cluster: seen }) => {
      const followers = seen?.replicas ?? [];
      return [
        config.name,
        {
          wanted: config.num_replicas,
          current: followers.filter(({ current }) => current).length + 1,
        },
      ];
    }),
  );
}
const everyStream = (count: number) =>
  Object.fromEntries(
    Object.values(STREAMS).map(({ name }) => [name, { wanted: count, current: count }]),
  );
const become = (count: number) =>
  until(
    `${count} replicas of each stream`,
    async () => JSON.stringify(await replicas()) === JSON.stringify(everyStream(count)),
    ELECTION_LIMIT_MS,
  );

/** Waits until each server has the whole consumer, so that any server may stop. */
const consumerIsEverywhere = () =>
  until(
    "the consumer is on every server",
    async () => {
      const manager = await bus.manager();
      // Without a leader the request gets no reply.
      const info = await manager.consumers
        .info(CONSUMER.stream, CONSUMER.durable)
        .catch(() => undefined);
      const followers = info?.cluster?.replicas ?? [];
      return (
        followers.length === SIZE - 1 &&
        followers.every(({ current, offline }) => current && offline !== true)
      );
    },
    ELECTION_LIMIT_MS,
  );

/** An observation that finds its subject full is stored later, under the same id. */
async function refusedThenStored(): Promise<void> {
  const { name, maxMessagesPerSubject: most } = STREAMS.OBSERVATIONS;
  const manager = await bus.manager();
  const send = (msgId: number) =>
    publish(bus, {
      subject: subjects.observation("host-1" as HostId, "running"),
      payload: { msgId },
      msgId: String(msgId),
    });
  for (let sent = 0; sent < most; sent += 1)
    await until("it is stored", async () => (await send(sent)).kind !== "unavailable");
  expect(await send(most)).toMatchObject({
    kind: "unavailable",
    cause: { message: "maximum messages per subject exceeded" },
  });
  expect((await manager.streams.info(name)).state.messages).toBe(most);
  await manager.streams.purge(name);
  expect(await send(most)).toEqual({ kind: "stored" });
  await manager.streams.purge(name);
}

test("ES1: streams are made with the replicas that are asked for, raised and lowered later, and their consumers follow", async () => {
  await ensureStreams(bus, { replicas: 1 });
  await ensureConsumer(bus, CONSUMER);
  await become(1);
  await (await bus.manager()).streams.purge(CONSUMER.stream);
  const kept = { subject: subjects.intent("pause"), payload: { kept: true }, msgId: "kept" };
  // A server that has just taken over a stream may not answer yet.
  const isStored = async () => (await publish(bus, kept)).kind !== "unavailable";
  await until("it is stored", isStored, ELECTION_LIMIT_MS);

  // Several schedulers that start together do this at the same time.
  await Promise.all(Array.from({ length: 3 }, () => ensureStreams(bus, { replicas: SIZE })));
  await become(SIZE);
  const manager = await bus.manager();
  await until(
    "the consumer has as many",
    async () => {
      const info = await manager.consumers.info(CONSUMER.stream, CONSUMER.durable);
      return info.cluster?.replicas?.length === SIZE - 1;
    },
    ELECTION_LIMIT_MS,
  );
  expect((await manager.streams.info(CONSUMER.stream)).state.messages).toBe(1);
  await refusedThenStored();

  await ensureStreams(bus, { replicas: 1 });
  await become(1);
  expect((await manager.streams.info(CONSUMER.stream)).state.messages).toBe(1);
  await manager.streams.purge(CONSUMER.stream);
}, 600_000);

test("ES2: replicas without a cluster are an error that says what to do", async () => {
  await using alone = await startNats();
  const other = await connectBus({ ...alone.as(), name: "test" });
  try {
    await expect(ensureStreams(other, { replicas: SIZE })).rejects.toThrow(
      /3 replicas are asked for, .* in no cluster: set NATS_REPLICAS=1/,
    );
  } finally {
    await other.close();
  }
});

test(
  "S37: kill -9 of each server in turn, the leaders among them: what was acknowledged is delivered, and the loop reads on",
  { timeout: 600_000, tags: ["exhaustive"] },
  async () => {
    await ensureStreams(bus, { replicas: SIZE });
    await ensureConsumer(bus, CONSUMER);
    await become(SIZE);
    const stopped = new AbortController();
    const delivered = new Set<string>();
    const acknowledged: string[] = [];
    const options = {
      consumer: CONSUMER,
      decode: decoder(Intent),
      concurrency: 4,
      signal: stopped.signal,
      log: silentLog(),
    };
    const loop = consume(bus, {
      ...options,
      handle: async ({ operationId }) => {
        delivered.add(operationId);
        return "ack";
      },
    });
    const send = async () => {
      while (!stopped.signal.aborted) {
        const operationId = newOperationId();
        const payload: Intent = {
          type: "intent",
          version: 1,
          kind: "pause",
          operationId,
          sandboxId: newSandboxId(),
        };
        const published = await publish(bus, {
          subject: subjects.intent("pause"),
          payload,
          msgId: operationId,
        });
        if (published.kind !== "unavailable") acknowledged.push(operationId);
        await sleep(20);
      }
    };
    const sending = send();
    const goesOn = async (what: string) => {
      const count = acknowledged.length;
      await until(
        `messages are stored ${what}`,
        () => acknowledged.length > count + 5,
        ELECTION_LIMIT_MS,
      );
      const last = acknowledged.at(-1) ?? "";
      await until(`they are delivered ${what}`, () => delivered.has(last), ELECTION_LIMIT_MS);
    };
    try {
      await goesOn("at first");
      for (const server of cluster.servers) {
        await consumerIsEverywhere();
        await server.stop("SIGKILL");
        await goesOn(`without ${server.name}`);
        await server.start();
        await goesOn(`with ${server.name} back`);
      }
    } finally {
      stopped.abort();
    }
    await sending;
    // Messages whose delivery fell into the end of a server are delivered again.
    const rest = new AbortController();
    const reader = consume(bus, {
      ...options,
      signal: rest.signal,
      handle: async ({ operationId }) => (delivered.add(operationId), "ack"),
    });
    await until(
      "all are delivered",
      () => acknowledged.every((id) => delivered.has(id)),
      ELECTION_LIMIT_MS,
    );
    rest.abort();
    await Promise.all([loop, reader]);
  },
);
