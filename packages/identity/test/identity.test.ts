/** Certificates as the authority makes them, over real connections. */
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { request as httpsRequest, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import type { TLSSocket } from "node:tls";
import type { IncomingMessage } from "node:http";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Authority, createAuthority, createRequest } from "../src/authority.ts";
import { FleetTls, type SpiffeIdentity, identityIn, peerOf, requestTo } from "../src/index.ts";

const HOST: SpiffeIdentity = { role: "host", hostId: "host-1" };
const GATEWAY: SpiffeIdentity = { role: "gateway" };

let dir: string;
let authority: Authority;
let server: Server;
let reached = 0;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "identity-"));
  authority = await Authority.open(await createAuthority());
  const tls = await programOf("host-1", HOST);
  server = tls.createServer({}, (incoming, response) => {
    reached += 1;
    response.end(JSON.stringify(peerOf(incoming.socket) ?? null));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
});
afterAll(async () => {
  server.closeAllConnections();
  server.close();
  await rm(dir, { recursive: true });
});

async function programOf(
  name: string,
  identity: SpiffeIdentity,
  by: Authority = authority,
): Promise<FleetTls> {
  const { certificatePem, keyPem } = await by.issue({ identity, days: 1 });
  return await FleetTls.load(await writeFiles(name, certificatePem, keyPem));
}

async function writeFiles(name: string, certificatePem: string, keyPem: string) {
  const files = {
    certFile: join(dir, `${name}.crt`),
    keyFile: join(dir, `${name}.key`),
    caFile: join(dir, "ca.crt"),
  };
  await writeFile(files.certFile, certificatePem);
  await writeFile(files.keyFile, keyPem);
  await writeFile(files.caFile, authority.certificatePem);
  return files;
}

const address = () => new URL(`https://127.0.0.1:${(server.address() as AddressInfo).port}`);

async function ask(tls: FleetTls, expected: SpiffeIdentity, url = address()): Promise<unknown> {
  const request = tls.request(url, expected, { path: "/" });
  request.end();
  const [answer] = (await once(request, "response")) as [IncomingMessage];
  return JSON.parse(await text(answer));
}

test("each side knows who the other is, also when a TLS session goes on over a new connection", async () => {
  const gateway = await programOf("gateway", GATEWAY);
  let resumed = 0;
  const note = (socket: TLSSocket) => void (resumed += socket.isSessionReused() ? 1 : 0);
  server.on("secureConnection", note);
  for (let times = 0; times < 3; times += 1) {
    expect(await ask(gateway, HOST)).toEqual(GATEWAY);
    server.closeAllConnections();
    // Until the client has noticed the close.
    await sleep(50);
  }
  server.off("secureConnection", note);
  expect(resumed).toBeGreaterThan(0);
  const host2: SpiffeIdentity = { role: "host", hostId: "host-2" };
  expect(await ask(await programOf("host-2", host2), HOST)).toEqual(host2);
});

test("while one authority takes the place of another, programs of both reach each other", async () => {
  const next = await Authority.open(await createAuthority());
  const both = authority.certificatePem + next.certificatePem;
  const program = async (name: string, identity: SpiffeIdentity, by: Authority, ca: string) => {
    const { certificatePem, keyPem } = await by.issue({ identity, days: 1 });
    const files = await writeFiles(name, certificatePem, keyPem);
    const caFile = join(dir, `${name}-ca.crt`);
    await writeFile(caFile, ca);
    return await FleetTls.load({ ...files, caFile });
  };
  const reversed = next.certificatePem + authority.certificatePem;
  for (const [old, ca] of [
    [authority, both],
    [next, both],
    [authority, reversed],
    [next, reversed],
  ] as const) {
    const other = old === authority ? next : authority;
    const host = await program("both-host", HOST, old, ca);
    const listener = host.createServer({}, (incoming, response) => {
      response.end(JSON.stringify(peerOf(incoming.socket) ?? null));
    });
    await once(listener.listen(0, "127.0.0.1"), "listening");
    const url = new URL(`https://127.0.0.1:${(listener.address() as AddressInfo).port}`);
    expect(await ask(await program("both-gateway", GATEWAY, other, ca), HOST, url)).toEqual(
      GATEWAY,
    );
    listener.close();
  }
});

test.each([
  ["nothing", ""],
  ["half a certificate", "-----BEGIN CERTIFICATE-----\nMIIB"],
  [
    "two on a line",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE----------BEGIN CERTIFICATE-----",
  ],
])("authorities that are %s are not taken up", async (_, ca) => {
  const { certificatePem, keyPem } = await authority.issue({ identity: GATEWAY, days: 1 });
  const files = await writeFiles("broken", certificatePem, keyPem);
  const caFile = join(dir, "broken-ca.crt");
  await writeFile(caFile, ca);
  await expect(FleetTls.load({ ...files, caFile })).rejects.toThrow(
    /broken-ca.crt has (no|a certificate that|what is no whole)/,
  );
});

test("who reaches another host than it meant to sends nothing", async () => {
  reached = 0;
  const gateway = await programOf("gateway", GATEWAY);
  await expect(ask(gateway, { role: "host", hostId: "host-9" })).rejects.toThrow(
    "that of spiffe://torpor/host/host-1, not of spiffe://torpor/host/host-9",
  );
  expect(reached).toBe(0);
});

test("a certificate of another authority opens nothing, and nor does none", async () => {
  reached = 0;
  const stranger = await programOf(
    "stranger",
    GATEWAY,
    await Authority.open(await createAuthority()),
  );
  await expect(ask(stranger, HOST)).rejects.toThrow(/certificate|hang up|ECONNRESET/i);
  const plain = httpsRequest(address(), { rejectUnauthorized: false });
  plain.end();
  await expect(once(plain, "response")).rejects.toThrow(
    /certificate required|socket hang up|ECONNRESET/,
  );
  expect(reached).toBe(0);
  expect(() => requestTo(address(), { tls: undefined, expected: HOST }, {})).toThrow(
    "set TLS_CERT_FILE",
  );
});

test("of a request to certify, the key is taken and nothing else; what is none is refused", async () => {
  const { requestPem, keyPem } = await createRequest();
  const certificatePem = await authority.certify(requestPem, {
    identity: HOST,
    addresses: ["10.0.0.5", "h.example"],
    days: 1,
  });
  const tls = await FleetTls.load(await writeFiles("certified", certificatePem ?? "", keyPem));
  expect(tls.certificate.subjectAltName).toBe(
    "URI:spiffe://torpor/host/host-1, IP Address:10.0.0.5, DNS:h.example",
  );
  expect(tls.certificate.ca).toBe(false);
  expect(
    await authority.certify(
      "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
      { identity: HOST, days: 1 },
    ),
  ).toBeUndefined();
  const lines = requestPem.split("\n").filter((line) => line !== "" && !line.startsWith("-"));
  const body = Buffer.from(lines.join(""), "base64");
  body[body.length - 1] = (body.at(-1) ?? 0) ^ 1;
  const forged = `-----BEGIN CERTIFICATE REQUEST-----\n${body.toString("base64")}\n-----END CERTIFICATE REQUEST-----`;
  expect(await authority.certify(forged, { identity: HOST, days: 1 })).toBeUndefined();
});

test("files that are renewed are taken up; those that do not belong together are refused, and the old stay", async () => {
  const first = await authority.issue({ identity: GATEWAY, days: 1 });
  const tls = await FleetTls.load(await writeFiles("renewed", first.certificatePem, first.keyPem));
  expect(await tls.reload()).toBe(false);
  const next = await authority.issue({ identity: GATEWAY, days: 2 });
  await writeFiles("renewed", next.certificatePem, first.keyPem);
  await expect(tls.reload()).rejects.toThrow(
    /renewed.crt, .*renewed.key and .* cannot be used together/,
  );
  expect(await ask(tls, HOST)).toEqual(GATEWAY);
  await writeFiles("renewed", next.certificatePem, next.keyPem);
  expect(await tls.reload()).toBe(true);
  expect(tls.certificate.serialNumber).not.toBe(
    new X509Certificate(first.certificatePem).serialNumber,
  );
  expect(await ask(tls, HOST)).toEqual(GATEWAY);
});

test("a server whose files were renewed shows the new certificate", async () => {
  const served = await authority.issue({ identity: HOST, days: 1 });
  const tls = await FleetTls.load(await writeFiles("server", served.certificatePem, served.keyPem));
  const other = tls.createServer({}, (_incoming, response) => void response.end("null"));
  await once(other.listen(0, "127.0.0.1"), "listening");
  const url = new URL(`https://127.0.0.1:${(other.address() as AddressInfo).port}`);
  const gateway = await programOf("gateway", GATEWAY);
  expect(await ask(gateway, HOST, url)).toBeNull();
  const next = await authority.issue({ identity: { role: "host", hostId: "host-7" }, days: 1 });
  await writeFiles("server", next.certificatePem, next.keyPem);
  await tls.reload();
  expect(await ask(gateway, { role: "host", hostId: "host-7" }, url)).toBeNull();
  other.close();
});

test.each([
  ["", undefined],
  ["URI:spiffe://torpor/gateway", GATEWAY],
  ["DNS:a, URI:spiffe://torpor/host/host-1, IP Address:10.0.0.1", HOST],
  ["URI:spiffe://torpor/gateway, URI:spiffe://torpor/host/host-1", undefined],
  ["URI:spiffe://another/gateway", undefined],
  ["URI:spiffe://torpor/host/", undefined],
  ['DNS:"a, URI:spiffe://torpor/gateway"', undefined],
  ["DNS:spiffe://torpor/gateway", undefined],
])("who is named by %j", (names, identity) => {
  expect(identityIn(names)).toEqual(identity);
});
