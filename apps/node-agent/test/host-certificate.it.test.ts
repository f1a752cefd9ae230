/** A host's certificate is renewed while its data plane, its peers and the bus use it. */
import { once } from "node:events";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { X509Certificate } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Server } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import { handleRequests, type Bus, connectBus } from "@torpor/bus";
import {
  type CertificateReply,
  CertificateRequest,
  decoder,
  type HostId,
  patterns,
} from "@torpor/contracts";
import { FleetTls, type SpiffeIdentity } from "@torpor/identity";
import { Authority, createAuthority, createRequest } from "@torpor/identity/authority";
import { type NatsServer, silentLog, startNats, tempDir } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { DURABLE_STEP_CHANNEL, type DurableStep } from "../src/host/durable-step.ts";
import { HostCertificate } from "../src/control/host-certificate.ts";

const HOST: SpiffeIdentity = { role: "host", hostId: "host-1" };
const GATEWAY: SpiffeIdentity = { role: "gateway" };
/** A quarter of an hour, less than the hour by which certificates are backdated: renewal is due. */
const DUE_DAYS = 0.01;

let dir: Awaited<ReturnType<typeof tempDir>>;
let authority: Authority;
let nats: NatsServer;
let control: Bus;
let bus: Bus;
let requestPem: string;
let gateway: FleetTls;
/** The control plane's reply. */
let reply: (request: CertificateRequest) => Promise<CertificateReply>;

const files = (name: string) => ({
  certFile: join(dir.path, `${name}.crt`),
  keyFile: join(dir.path, `${name}.key`),
  caFile: join(dir.path, "ca.crt"),
});
const own = () => files("tls");
const certify = async (days: number, identity: SpiffeIdentity = HOST, by = authority) =>
  (await by.certify(requestPem, { identity, days })) ?? "";
/** A certificate from a gateway whose clock is wrong. */
async function certifiedInTwoDays(): Promise<string> {
  vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 2 * 86_400_000 });
  try {
    return await certify(30);
  } finally {
    vi.useRealTimers();
  }
}
const serialIn = (pem: string) => new X509Certificate(pem).serialNumber;
const serialOnDisk = async () => serialIn(await readFile(own().certFile, "utf8"));

beforeAll(async () => {
  dir = await tempDir();
  authority = await Authority.open(await createAuthority());
  await writeFile(own().caFile, authority.certificatePem);
  const issued = await authority.issue({ identity: GATEWAY, days: 1 });
  await writeFile(files("gateway").certFile, issued.certificatePem);
  await writeFile(files("gateway").keyFile, issued.keyPem);
  gateway = await FleetTls.load(files("gateway"));
  const server = await authority.issue({ addresses: ["127.0.0.1"], days: 1 });
  await writeFile(files("server").certFile, server.certificatePem);
  await writeFile(files("server").keyFile, server.keyPem);
  nats = await startNats(["host-1"], [], files("server"));
  control = await connectBus({ ...nats.as(), name: "control", tlsFiles: files("gateway") });
  handleRequests<CertificateRequest>(control, {
    pattern: patterns.requests("certificate"),
    queue: "q",
    decode: decoder(CertificateRequest),
    handle: async (request) => await reply(request),
    log: silentLog(),
  });
  await control.connection.flush();
});
afterAll(async () => {
  await control.close();
  await nats[Symbol.asyncDispose]();
  await dir[Symbol.asyncDispose]();
});
beforeEach(async () => {
  // As `join` leaves the files, and old.
  const made = await createRequest();
  requestPem = made.requestPem;
  await writeFile(own().keyFile, made.keyPem);
  await writeFile(join(dir.path, "tls.csr"), requestPem);
  await writeFile(own().certFile, await certify(DUE_DAYS));
  bus = await connectBus({
    ...nats.as("host-1"),
    name: "h",
    hostId: "host-1" as HostId,
    tlsFiles: own(),
  });
  reply = async (request) => {
    const pem = await authority.certify(request.certificateRequest, { identity: HOST, days: 30 });
    return { granted: true, certificate: pem ?? "" };
  };
});
afterEach(async () => await bus.close());

/** Runs one round of the renewal: the signal has aborted, so no other follows. */
async function look(tls: FleetTls): Promise<HostCertificate> {
  const ended = new AbortController();
  const certificate = new HostCertificate({
    hostId: "host-1" as HostId,
    tls,
    bus,
    signal: ended.signal,
    log: silentLog(),
  });
  ended.abort();
  await certificate.run();
  return certificate;
}

async function serve(tls: FleetTls): Promise<{ server: Server; url: URL; open: ServerResponse[] }> {
  const open: ServerResponse[] = [];
  const server = tls.createServer({}, (_incoming, response) => {
    response.write("begun ");
    open.push(response);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return {
    server,
    url: new URL(`https://127.0.0.1:${(server.address() as AddressInfo).port}`),
    open,
  };
}

async function openStream(url: URL): Promise<{ stream: IncomingMessage; serial: string }> {
  const request = gateway.request(url, HOST, { path: "/", isFresh: true });
  request.end();
  const [stream] = (await once(request, "response")) as [IncomingMessage];
  const serial = (stream.socket as TLSSocket).getPeerX509Certificate()?.serialNumber ?? "";
  return { stream, serial };
}

test("new connections get the new one, those that are open go on, and so does the bus over a new connection", async () => {
  const tls = await FleetTls.load(own());
  const before = tls.certificate.serialNumber;
  const { server, url, open } = await serve(tls);
  const first = await openStream(url);
  expect(first.serial).toBe(before);
  expect((await look(tls)).problems()).toEqual([]);
  const after = tls.certificate.serialNumber;
  expect(after).not.toBe(before);
  expect(await serialOnDisk()).toBe(after);
  expect((await openStream(url)).serial).toBe(after);
  open[0]?.end("ended");
  expect(Buffer.concat(await first.stream.toArray()).toString()).toBe("begun ended");
  server.closeAllConnections();
  server.close();
  // The old certificate is gone: the bus connects with the one on disk.
  const again = Promise.withResolvers<void>();
  bus.onReconnect(again.resolve);
  await bus.connection.reconnect();
  await again.promise;
  expect(await bus.answers(5_000)).toBe(true);
  // Renewal is not due any more: no request is sent.
  reply = async () => ({ granted: true, certificate: await certify(60) });
  await look(tls);
  expect(tls.certificate.serialNumber).toBe(after);
});

test.each(["before", "after"] as const)(
  "HC1: a host that is lost right %s the file is written has a whole one, and goes on",
  async (moment) => {
    const before = await serialOnDisk();
    const reached = Promise.withResolvers<void>();
    const lose = (message: unknown) => {
      const { name, when, hold } = message as DurableStep;
      if (name !== "write tls.crt" || when !== moment) return;
      hold(new Promise(() => {}));
      reached.resolve();
    };
    subscribe(DURABLE_STEP_CHANNEL, lose);
    void look(await FleetTls.load(own()));
    await reached.promise;
    unsubscribe(DURABLE_STEP_CHANNEL, lose);
    expect((await serialOnDisk()) === before).toBe(moment === "before");
    const tls = await FleetTls.load(own());
    expect((await look(tls)).problems()).toEqual([]);
    expect(tls.certificate.serialNumber).not.toBe(before);
    expect(await serialOnDisk()).toBe(tls.certificate.serialNumber);
  },
);

test("HC2: what is refused, or is not this host's, changes nothing and is a problem once the end is near", async () => {
  const stranger = await Authority.open(await createAuthority());
  const other = (await authority.issue({ identity: HOST, days: 30 })).certificatePem;
  const granted = (certificate: string) => ({ granted: true, certificate });
  const answers: [CertificateReply, string][] = [
    [{ granted: false, reason: "this host was revoked" }, "this host was revoked"],
    [granted("-----BEGIN CERTIFICATE-----\nAAAA"), "no certificate"],
    [granted(await certify(30, { role: "host", hostId: "host-2" })), "host/host-2"],
    [granted(await certify(30, GATEWAY)), "gateway"],
    [granted(other), "another key"],
    [granted(await certify(30, HOST, stranger)), "no authority in TLS_CA_FILE"],
    [granted(await certify(DUE_DAYS)), "renewed at once"],
    [granted(await certifiedInTwoDays()), "not valid yet"],
  ];
  // An hour of its validity has passed; three minutes are left.
  await writeFile(own().certFile, await certify(DUE_DAYS / 5));
  const tls = await FleetTls.load(own());
  const before = await serialOnDisk();
  for (const [given, why] of answers) {
    reply = async () => given;
    expect((await look(tls)).problems()).toMatchObject([
      { code: "CERTIFICATE_ENDS", message: expect.stringContaining(why) },
    ]);
    expect(await serialOnDisk()).toBe(before);
  }
});
