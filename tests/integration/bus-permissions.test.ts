/** What the user of a host may do on the server, tried out: it speaks for itself alone. */
import { type Bus, connectBus, ensureConsumer, ensureStreams, inboxPrefixOf, publish } from "@torpor/bus";
import { hostCommands, subjects } from "@torpor/contracts";
import { type NatsServer, startNats, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const [OWN, OTHER] = ["host-a", "host-b"] as const;

let server: NatsServer;
let control: Bus;
let host: Bus;
/** Every subject on which anything arrived, as the control side sees it. */
const arrived: string[] = [];

beforeAll(async () => {
  server = await startNats([OWN, OTHER]);
  control = await connectBus({ ...server.as(), name: "control" });
  await ensureStreams(control);
  for (const id of [OWN, OTHER]) await ensureConsumer(control, hostCommands(id));
  control.connection.subscribe("torpor.>", { callback: (_, message) => void arrived.push(message.subject) });
  control.connection.subscribe("_INBOX_host-host-b.>", { callback: (_, message) => void arrived.push(message.subject) });
  await control.connection.flush();
  host = await connectBus({ ...server.as(OWN), name: OWN, inboxPrefix: inboxPrefixOf(OWN) });
});
afterAll(async () => {
  await host.close();
  await control.close();
  await server[Symbol.asyncDispose]();
});

let beats = 0;
/** The server handles what one connection sends in order: once its heartbeat is there, what came before was let through or was not. */
async function settled(): Promise<void> {
  beats += 1;
  host.connection.publish(subjects.beat(OWN));
  await until("the heartbeat arrived", () => arrived.filter((subject) => subject === subjects.beat(OWN)).length === beats);
}

test("a host reports, asks and beats as itself, and reads its own commands", async () => {
  expect(await publish(host, { subject: subjects.observation(OWN, "running"), payload: {}, msgId: "1" })).toEqual({ kind: "stored" });
  host.connection.publish(subjects.ask(OWN, "lease"));
  await settled();
  expect(arrived).toContain(subjects.ask(OWN, "lease"));
  await publish(control, { subject: subjects.command(OWN, "pause"), payload: { for: OWN }, msgId: "2" });
  const own = await host.jetstream.consumers.get("COMMANDS", hostCommands(OWN).durable);
  const command = await own.next({ expires: 5_000 });
  expect(command?.json()).toEqual({ for: OWN });
  expect(await command?.ackAck()).toBe(true);
});

describe("a host cannot", () => {
  test.each([
    ["report as another host", subjects.observation(OTHER, "running")],
    ["ask as another host", subjects.ask(OTHER, "commit")],
    ["beat as another host", subjects.beat(OTHER)],
    ["command another host", subjects.command(OTHER, "delete")],
    ["command itself", subjects.command(OWN, "create")],
    ["make an intent", subjects.intent("delete")],
    ["make an event", subjects.sandboxEvent("1763309903rt5vs4lm", "deleted")],
    ["ask the schedulers as a gateway does", subjects.controlAsk("placement")],
    ["answer another host", `${inboxPrefixOf(OTHER)}.x`],
  ])("%s", async (_, subject) => {
    host.connection.publish(subject, "{}");
    await settled();
    expect(arrived).not.toContain(subject);
  });

  test("read the commands of another host: neither by its consumer, nor by a subscription, nor from the stream", async () => {
    await publish(control, { subject: subjects.command(OTHER, "pause"), payload: { for: OTHER }, msgId: "3" });
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
    ]) {
      host.connection.publish(`$JS.API.${api}`, JSON.stringify({ last_by_subj: subjects.command(OTHER, "pause") }), {
        reply: `${inboxPrefixOf(OWN)}.answer`,
      });
    }
    host.connection.subscribe(`${inboxPrefixOf(OWN)}.answer`, { callback: heard });
    await settled();
    await publish(control, { subject: subjects.command(OTHER, "stop"), payload: {}, msgId: "4" });
    await settled();
    expect([got, denied]).toEqual([[], 6]);
    const waiting = await (await control.manager()).consumers.info("COMMANDS", hostCommands(OTHER).durable);
    expect([waiting.num_pending, waiting.num_ack_pending]).toEqual([2, 0]);
  });

  test("make, change, purge or delete a stream or a consumer", async () => {
    const before = await (await control.manager()).streams.names().next();
    for (const [api, payload] of [
      ["STREAM.CREATE.MINE", { name: "MINE", subjects: ["mine.>"] }],
      ["STREAM.UPDATE.COMMANDS", { name: "COMMANDS", subjects: ["torpor.v1.host.*.cmd.*"], max_bytes: 1 }],
      ["STREAM.PURGE.COMMANDS", {}],
      ["STREAM.DELETE.COMMANDS", {}],
      ["CONSUMER.CREATE.COMMANDS.spy", { stream_name: "COMMANDS", config: { durable_name: "spy" } }],
      ["CONSUMER.DELETE.COMMANDS.host-host-b", {}],
    ] as const)
      host.connection.publish(`$JS.API.${api}`, JSON.stringify(payload));
    await settled();
    const manager = await control.manager();
    expect(await manager.streams.names().next()).toEqual(before);
    expect((await manager.streams.info("COMMANDS")).state.messages).toBe(2);
    const names = (await manager.consumers.list("COMMANDS").next()).map(({ name }) => name);
    expect(names.toSorted()).toEqual([hostCommands(OWN).durable, hostCommands(OTHER).durable]);
  });
});

test("who has no password, or another host's, is not let in", async () => {
  const { connect } = await import("@nats-io/transport-node");
  await expect(connect({ servers: server.url, reconnect: false })).rejects.toThrow(/authorization/i);
  await expect(connect({ servers: server.url, user: server.as(OWN).user, pass: "wrong", reconnect: false })).rejects.toThrow(
    /authorization/i,
  );
});
