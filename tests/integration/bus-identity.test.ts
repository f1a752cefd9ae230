/** How programs recognize the NATS servers, and the servers the programs: TLS and keys. */
import { createServer } from "node:net";
import { once } from "node:events";
import { type Bus, connectBus, createNatsKey, ensureStreams, publish } from "@torpor/bus";
import { subjects, unverifiedHostId } from "@torpor/contracts";
import { makeCertificates, tlsFilesOf } from "@torpor/fleet";
import { type NatsServer, startNats, tempDir, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const HOSTS = ["host-a", "host-b"];
const CONTROL = createNatsKey();
const keys = new Map(HOSTS.map((hostId) => [hostId, createNatsKey()]));

let dir: Awaited<ReturnType<typeof tempDir>>;
let stranger: Awaited<ReturnType<typeof tempDir>>;
let server: NatsServer;
let control: Bus;

beforeAll(async () => {
  dir = await tempDir();
  stranger = await tempDir();
  for (const { path } of [dir, stranger]) await makeCertificates(path, HOSTS);
  server = await startNats([], [], tlsFilesOf(dir.path, "server"));
  await admit();
  control = await connectBus({
    url: server.url,
    name: "control",
    seed: CONTROL.seed,
    tlsFiles: tlsFilesOf(dir.path, "gateway"),
  });
  await ensureStreams(control);
});
afterAll(async () => {
  await control.close();
  await server[Symbol.asyncDispose]();
  for (const one of [dir, stranger]) await one[Symbol.asyncDispose]();
});

const seedOf = (hostId: string) => keys.get(hostId)?.seed;

async function admit(more: Record<string, string[]> = {}, without: string[] = []): Promise<void> {
  const hosts = HOSTS.filter((hostId) => !without.includes(hostId));
  const known = (hostId: string) => more[hostId] ?? [keys.get(hostId)?.publicKey ?? ""];
  await server.admit([
    { publicKeys: [CONTROL.publicKey] },
    ...hosts.map((hostId) => ({ hostId, publicKeys: known(hostId) })),
  ]);
}

const host = (hostId: string, given: { seed?: string; url?: string; files?: string } = {}) =>
  connectBus({
    url: given.url ?? server.url,
    name: hostId,
    hostId: unverifiedHostId(hostId),
    seed: given.seed ?? seedOf(hostId),
    tlsFiles: tlsFilesOf(given.files ?? dir.path, hostId),
  });

let reports = 0;
async function report(bus: Bus, hostId: string): Promise<string> {
  reports += 1;
  return (
    await publish(bus, {
      subject: subjects.observation(unverifiedHostId(hostId), "running"),
      payload: {},
      msgId: `report-${reports}`,
    })
  ).kind;
}

/** Time limit of a connection that must fail: the client itself retries for ever. */
const LIMIT_MS = 5_000;
const ends = async (connecting: Promise<Bus>) =>
  await Promise.race([
    connecting.then(
      async (bus) => (await bus.close(), "connected"),
      (error: Error) => error.message,
    ),
    new Promise<string>((resolve) => setTimeout(() => resolve("waits"), LIMIT_MS)),
  ]);

describe("TLS", () => {
  test("a host with its key and certificate reports", async () => {
    const bus = await host("host-a");
    expect(await report(bus, "host-a")).toBe("stored");
    await bus.close();
  });

  test.each<[string, () => Promise<Bus>]>([
    ["a server of another authority", () => host("host-a", { files: stranger.path })],
    ["no TLS", () => host("host-a", { url: server.url.replace("tls:", "nats:") })],
    ["the key of nobody", () => host("host-a", { seed: createNatsKey().seed })],
    [
      "a certificate, and no key",
      () => connectBus({ url: server.url, name: "x", tlsFiles: tlsFilesOf(dir.path, "host-a") }),
    ],
    [
      "a key, and no certificate",
      () =>
        connectBus({ url: server.url, name: "x", seed: seedOf("host-a"), tlsFiles: trustOnly() }),
    ],
  ])("nobody gets in with %s", async (_, connect) => {
    expect(await ends(connect())).not.toBe("connected");
  });

  test("a server that says that it knows no TLS is told nothing", async () => {
    const heard: string[] = [];
    const plain = createServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.on("data", (bytes: Buffer) => heard.push(bytes.toString("latin1")));
      socket.write(
        'INFO {"server_id":"x","version":"2.15.0","proto":1,"headers":true,"max_payload":1048576,"nonce":"abc"}\r\n',
      );
    });
    await once(plain.listen(0, "127.0.0.1"), "listening");
    const address = plain.address() as { port: number };
    const connecting = host("host-a", { url: `tls://127.0.0.1:${address.port}` });
    connecting.catch(() => {});
    await until("it was spoken to", () => heard.length > 0);
    // A TLS record with a handshake begins with this byte.
    expect(heard.every((text) => text.startsWith("\x16"))).toBe(true);
    expect(heard.join("")).not.toMatch(/CONNECT|nkey/);
    plain.close();
  });
});

const trustOnly = () => ({ caFile: tlsFilesOf(dir.path, "host-a").caFile });

describe("keys", () => {
  test("one takes the place of another while the host runs on, and no other host notices", async () => {
    const [first, other] = [await host("host-a"), await host("host-b")];
    const next = createNatsKey();
    let dropped = 0;
    other.onReconnect(() => (dropped += 1));
    await admit({ "host-a": [keys.get("host-a")?.publicKey ?? "", next.publicKey] });
    const second = await host("host-a", { seed: next.seed });
    expect([
      await report(first, "host-a"),
      await report(second, "host-a"),
      await report(other, "host-b"),
    ]).toEqual(["stored", "stored", "stored"]);
    await admit({ "host-a": [next.publicKey] });
    await until("the old key's connection ends", () => !first.isConnected());
    expect([await report(second, "host-a"), await report(other, "host-b")]).toEqual([
      "stored",
      "stored",
    ]);
    expect(dropped).toBe(0);
    expect(await ends(host("host-a"))).not.toBe("connected");
    keys.set("host-a", next);
    for (const bus of [first, second, other]) await bus.close();
  });

  test("a host that is no longer admitted is cut off at once; the others go on", async () => {
    const [gone, other] = [await host("host-a"), await host("host-b")];
    await admit({}, ["host-a"]);
    await until("its connection ends", () => !gone.isConnected());
    expect(await report(other, "host-b")).toBe("stored");
    await admit();
    await until("it is let in again", () => gone.isConnected());
    await gone.close();
    await other.close();
  });
});
