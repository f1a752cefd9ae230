/** Permissions of a host's user on the server, tried out: a host speaks only for itself. */
import {
  type Bus,
  connectBus,
  consume,
  ensureConsumer,
  ensureStreams,
  hostServices,
  inboxPrefixOf,
  publish,
} from "@torpor/bus";
import {
  hostCommands,
  type HostId,
  OBSERVED_STATES,
  type SandboxId,
  subjects,
} from "@torpor/contracts";
import { type NatsServer, silentLog, startNats, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

const [OWN, OTHER] = ["host-a" as HostId, "host-b" as HostId];

let server: NatsServer;
let control: Bus;
let host: Bus;
/** Subject of every message that the control side received. */
const arrived: string[] = [];

beforeAll(async () => {
  server = await startNats([OWN, OTHER]);
  control = await connectBus({ ...server.as(), name: "control" });
  await ensureStreams(control);
  for (const id of [OWN, OTHER]) await ensureConsumer(control, hostCommands(id));
  control.connection.subscribe("torpor.>", {
    callback: (_, message) => void arrived.push(message.subject),
  });
  control.connection.subscribe("_INBOX_host-host-b.>", {
    callback: (_, message) => void arrived.push(message.subject),
  });
  await control.connection.flush();
  host = await connectBus({ ...server.as(OWN), name: OWN, hostId: OWN });
});
afterAll(async () => {
  await host.close();
  await control.close();
  await server[Symbol.asyncDispose]();
});

let marks = 0;
/**
 * Waits until a mark arrives. The server handles the messages of one connection in order, so every
 * earlier message was passed on or refused by then.
 */
async function settled(): Promise<void> {
  marks += 1;
  const mark = `${ownPrefix}ask.mark-${marks}`;
  host.connection.publish(mark);
  await until("the mark arrived", () => arrived.includes(mark));
}
const ownPrefix = subjects.heartbeat(OWN).slice(0, -"beat".length);

/** Reads the first message like an agent. */
async function firstOf(bus: Bus, hostId: HostId): Promise<{ subject: string; content: unknown }> {
  const stop = new AbortController();
  const read: { subject: string; content: unknown }[] = [];
  const reading = consume(bus, {
    consumer: hostCommands(hostId),
    decode: (_, bytes) => JSON.parse(new TextDecoder().decode(bytes)) as unknown,
    handle: async (content, { subject }) => {
      read.push({ subject, content });
      return "ack";
    },
    concurrency: 1,
    signal: stop.signal,
    log: silentLog(),
  });
  try {
    return await until("a message is read", () => read[0]);
  } finally {
    stop.abort();
    await reading;
  }
}

test("a host reports, asks and beats as itself, and reads its own commands", async () => {
  expect(
    await publish(host, { subject: subjects.observation(OWN, "running"), payload: {}, msgId: "1" }),
  ).toEqual({ kind: "stored" });
  const said = [subjects.request(OWN, "lease"), subjects.heartbeat(OWN)];
  for (const subject of said) host.connection.publish(subject);
  await settled();
  expect(arrived).toEqual(expect.arrayContaining(said));
  await publish(control, {
    subject: subjects.command(OWN, "pause"),
    payload: { for: OWN },
    msgId: "2",
  });
  expect(await firstOf(host, OWN)).toEqual({
    subject: subjects.command(OWN, "pause"),
    content: { for: OWN },
  });
});

test("a host of 0.1.0 does so in the control side's account, one of this version there too", async () => {
  await using shared = await startNats([OWN], [OWN]);
  const there = await connectBus({ ...shared.as(), name: "control" });
  await ensureStreams(there);
  await ensureConsumer(there, hostCommands(OWN));
  const bus = await connectBus({ ...shared.as(OWN), name: OWN, hostId: OWN });
  const command = (content: string) => {
    const message = { subject: subjects.command(OWN, "pause"), payload: { content } };
    return publish(there, { ...message, msgId: content });
  };
  await command("old");
  const { stream, durable } = hostCommands(OWN);
  const own = await bus.jetstream.consumers.get(stream, durable);
  const first = await own.next({ expires: 5_000 });
  expect(first?.json()).toEqual({ content: "old" });
  expect(await first?.ackAck()).toBe(true);
  await command("new");
  expect(await firstOf(bus, OWN)).toMatchObject({ content: { content: "new" } });
  await bus.close();
  await there.close();
});

/**
 * The server itself replies to the request for messages and to the double acknowledgement. These
 * replies must not go where the control side listens, least of all to JetStream's own API.
 */
describe("a host names for its answer", () => {
  const { stream, durable } = hostCommands(OWN);
  const asked = hostServices(OWN).map(({ localSubject }) =>
    localSubject.replace("*", "lease").replace(">", "1.1.1.1.1"),
  );
  const places = [
    "$JS.API.STREAM.DELETE.EVENTS",
    `$JS.API.STREAM.PURGE.${stream}`,
    `$JS.API.CONSUMER.DELETE.${stream}.${durable}`,
    subjects.command(OTHER, "delete"),
    subjects.observation(OTHER, "stopped"),
    subjects.intent("delete"),
    subjects.request(OTHER, "lease"),
    subjects.heartbeat(OTHER),
    `${inboxPrefixOf(OTHER)}.x`,
    "_INBOX.x",
    "torpor.x",
  ];
  // The host's open requests for messages would take the next commands to nowhere.
  afterEach(async () => {
    await (await control.manager()).consumers.delete(stream, durable);
    await ensureConsumer(control, hostCommands(OWN));
  });

  test.each(places)("%s: nothing comes of it", async (reply) => {
    const manager = await control.manager();
    const streams = await manager.streams.names().next();
    const before = await Promise.all(
      streams.map(async (name) => (await manager.streams.info(name)).state),
    );
    const consumers = (await manager.consumers.list(stream).next()).length;
    arrived.length = 0;
    for (const subject of asked)
      for (const payload of ["", "{}", '{"no_wait":true,"batch":1}', "+NXT"])
        host.connection.publish(subject, payload, { reply });
    await settled();
    await control.connection.flush();
    const after = await Promise.all(
      streams.map(async (name) => (await manager.streams.info(name)).state),
    );
    expect(await manager.streams.names().next()).toEqual(streams);
    const gained = after.map(({ last_seq }, at) => last_seq - (before[at]?.last_seq ?? 0));
    // Only the host's own observations were stored.
    expect(Object.fromEntries(streams.map((name, at) => [name, gained[at]]))).toEqual(
      Object.fromEntries(
        streams.map((name) => [name, name === "OBSERVATIONS" ? 4 * OBSERVED_STATES.length : 0]),
      ),
    );
    expect((await manager.consumers.list(stream).next()).length).toBe(consumers);
    expect(arrived.filter((subject) => !subject.startsWith(ownPrefix))).toEqual([]);
  });
});

describe("a host cannot", () => {
  test.each([
    ["report as another host", subjects.observation(OTHER, "running")],
    ["report under a name of its own making", subjects.observation(OWN, "lease")],
    ["ask as another host", subjects.request(OTHER, "commit")],
    ["beat as another host", subjects.heartbeat(OTHER)],
    ["command another host", subjects.command(OTHER, "delete")],
    ["command itself", subjects.command(OWN, "create")],
    ["make an intent", subjects.intent("delete")],
    ["make an event", subjects.sandboxEvent("1763309903rt5vs4lm" as SandboxId, "deleted")],
    ["ask the schedulers as a gateway does", subjects.controlRequest("placement")],
    ["answer another host", `${inboxPrefixOf(OTHER)}.x`],
  ])("%s", async (_, subject) => {
    host.connection.publish(subject, "{}");
    await settled();
    expect(arrived).not.toContain(subject);
  });

  test("read the commands of another host: neither by its consumer, nor by a subscription, nor from the stream", async () => {
    const pendingFor = async () =>
      await (await control.manager()).consumers.info("COMMANDS", hostCommands(OTHER).durable);
    const before = await pendingFor();
    await publish(control, {
      subject: subjects.command(OTHER, "pause"),
      payload: { for: OTHER },
      msgId: "3",
    });
    const got: string[] = [];
    let denied = 0;
    const heard = (error: Error | null, message: { subject: string }) => {
      if (error === null) got.push(message.subject);
      else denied += 1;
    };
    for (const subject of [
      "torpor.v1.host.host-b.cmd.*",
      "torpor.v1.host.*.cmd.*",
      "torpor.>",
      ">",
      "_INBOX.>",
      `${inboxPrefixOf(OTHER)}.>`,
    ])
      host.connection.subscribe(subject, { callback: heard });
    for (const api of [
      "CONSUMER.MSG.NEXT.COMMANDS.host-host-b",
      "CONSUMER.INFO.COMMANDS.host-host-b",
      "STREAM.MSG.GET.COMMANDS",
      "DIRECT.GET.COMMANDS",
      "STREAM.INFO.COMMANDS",
    ].flatMap((call) => [`$JS.API.${call}`, `torpor.v1.js.${call}`])) {
      host.connection.publish(
        api,
        JSON.stringify({ last_by_subj: subjects.command(OTHER, "pause") }),
        {
          reply: `${inboxPrefixOf(OWN)}.answer`,
        },
      );
    }
    host.connection.subscribe(`${inboxPrefixOf(OWN)}.answer`, { callback: heard });
    await settled();
    await publish(control, { subject: subjects.command(OTHER, "stop"), payload: {}, msgId: "4" });
    await settled();
    expect([got, denied]).toEqual([[], 6]);
    const waiting = await pendingFor();
    const gained = waiting.num_pending - before.num_pending;
    expect([gained, waiting.num_ack_pending]).toEqual([2, 0]);
  });

  test("make, change, purge or delete a stream or a consumer", async () => {
    await publish(control, {
      subject: subjects.command(OTHER, "pause"),
      payload: {},
      msgId: "5",
    });
    const messages = async () =>
      (await (await control.manager()).streams.info("COMMANDS")).state.messages;
    const stored = await messages();
    const before = await (await control.manager()).streams.names().next();
    for (const [api, payload] of [
      ["STREAM.CREATE.MINE", { name: "MINE", subjects: ["mine.>"] }],
      [
        "STREAM.UPDATE.COMMANDS",
        { name: "COMMANDS", subjects: ["torpor.v1.host.*.cmd.*"], max_bytes: 1 },
      ],
      ["STREAM.PURGE.COMMANDS", {}],
      ["STREAM.DELETE.COMMANDS", {}],
      [
        "CONSUMER.CREATE.COMMANDS.spy",
        { stream_name: "COMMANDS", config: { durable_name: "spy" } },
      ],
      ["CONSUMER.DELETE.COMMANDS.host-host-b", {}],
    ] as const)
      for (const prefix of ["$JS.API", "torpor.v1.js"])
        host.connection.publish(`${prefix}.${api}`, JSON.stringify(payload));
    await settled();
    const manager = await control.manager();
    expect(await manager.streams.names().next()).toEqual(before);
    expect(stored).toBeGreaterThan(0);
    expect(await messages()).toBe(stored);
    const names = (await manager.consumers.list("COMMANDS").next()).map(({ name }) => name);
    expect(names.toSorted()).toEqual([hostCommands(OWN).durable, hostCommands(OTHER).durable]);
  });
});

test("who has no password, or another host's, is not let in", async () => {
  const { connect } = await import("@nats-io/transport-node");
  await expect(connect({ servers: server.url, reconnect: false })).rejects.toThrow(
    /authorization/i,
  );
  await expect(
    connect({ servers: server.url, user: server.as(OWN).user, pass: "wrong", reconnect: false }),
  ).rejects.toThrow(/authorization/i);
});
