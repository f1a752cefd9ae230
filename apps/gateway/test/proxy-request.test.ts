/**
 * Proxy requests from the edge to a host's data plane, over real connections: when one is kept, and
 * what happens when it breaks.
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server } from "node:http";
import { type AddressInfo, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import type { HostId, SandboxId } from "@torpor/contracts";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { proxyRequest } from "../src/edge/proxy-request.ts";
import { type AgentTarget, targetOf } from "../src/edge/target.ts";

/** The requests that the host's data plane got, each with its connection. */
const seen: { connection: number; method: string; body: string }[] = [];
const connections: Socket[] = [];
/** Connections that are still to break, by method. */
let breaks: Record<string, number> = {};

const host = createServer((incoming, response) => {
  const { method = "" } = incoming;
  void text(incoming).then((body) => {
    seen.push({ connection: connections.indexOf(incoming.socket), method, body });
    if ((breaks[method] ?? 0) > 0) {
      breaks[method] = (breaks[method] ?? 0) - 1;
      return incoming.socket.destroy();
    }
    return response.end("answer");
  });
});
host.on("connection", (socket) => connections.push(socket));
/** The edge's listener, which sends requests on. */
const edge = createServer((incoming, response) => {
  const proxied = proxyRequest(incoming, target(), {
    extra: {},
    passesCredentials: false,
    signal: new AbortController().signal,
  });
  void proxied.then(async (one) => {
    if (one.kind === "answered") response.end(await text(one.answer));
    else response.writeHead(503).end(one.kind);
  });
});

const portOf = (server: Server) => (server.address() as AddressInfo).port;
function target(): AgentTarget {
  const dataPlaneUrl = `http://127.0.0.1:${portOf(host)}`;
  const run = {
    sandboxId: "a" as SandboxId,
    epoch: 1,
    host: { id: "h" as HostId, dataPlaneUrl, ticketKey: "ab".repeat(32) },
  };
  const found = targetOf(run, 7777, { hostKey: undefined, tls: undefined });
  if (found instanceof Error) throw found;
  return found;
}

beforeAll(async () => {
  for (const server of [host, edge]) await once(server.listen(0, "127.0.0.1"), "listening");
});
beforeEach(() => {
  seen.length = 0;
  breaks = {};
});
afterAll(() => {
  for (const server of [host, edge]) {
    server.closeAllConnections();
    server.close();
  }
});

const send = async (method: string, body?: string) =>
  await (
    await fetch(`http://127.0.0.1:${portOf(edge)}/x`, {
      method,
      ...(body === undefined ? {} : { body }),
    })
  ).text();

const used = () => new Set(seen.map(({ connection }) => connection)).size;

test("reads that follow each other share a connection; those at once have one each", async () => {
  for (let times = 0; times < 3; times += 1) expect(await send("GET")).toBe("answer");
  expect(used()).toBe(1);
  seen.length = 0;
  await Promise.all(Array.from({ length: 4 }, () => send("GET")));
  expect(used()).toBeGreaterThan(1);
});

test("what may have an effect has a connection of its own: a host that restarts refuses it", async () => {
  await send("GET");
  for (let times = 0; times < 3; times += 1) expect(await send("POST", "{}")).toBe("answer");
  expect(used()).toBe(4);
});

test("a read over a kept connection that breaks is sent again over a new one, once", async () => {
  await send("GET");
  breaks = { GET: 1 };
  seen.length = 0;
  expect(await send("GET")).toBe("answer");
  expect(seen).toHaveLength(2);
  expect(seen[0]?.connection).not.toBe(seen[1]?.connection);
  await send("GET");
  breaks = { GET: 5 };
  expect(await send("GET")).toBe("lost");
  expect(breaks["GET"]).toBe(3);
});

test("what may have been carried out is not sent again", async () => {
  await send("POST", "{}");
  breaks = { POST: 1 };
  seen.length = 0;
  expect(await send("POST", "{}")).toBe("lost");
  expect(seen).toHaveLength(1);
});

test("a host that does not answer at all was sent nothing", async () => {
  const gone = createServer();
  await once(gone.listen(0, "127.0.0.1"), "listening");
  const dataPlaneUrl = `http://127.0.0.1:${portOf(gone)}`;
  gone.close();
  await once(gone, "close");
  const run = {
    sandboxId: "a" as SandboxId,
    epoch: 1,
    host: { id: "h" as HostId, dataPlaneUrl, ticketKey: "ab".repeat(32) },
  };
  const found = targetOf(run, 7777, { hostKey: undefined, tls: undefined });
  const incoming = {
    rawHeaders: [],
    headers: {},
    method: "GET",
    url: "/",
  } as unknown as IncomingMessage;
  const sending = { extra: {}, passesCredentials: false, signal: new AbortController().signal };
  expect(found).not.toBeInstanceOf(Error);
  expect(await proxyRequest(incoming, found as AgentTarget, sending)).toMatchObject({
    kind: "unreachable",
  });
});

test.each<[string, Partial<{ dataPlaneUrl: string; ticketKey: string | null }>, RegExp]>([
  ["no address", { dataPlaneUrl: "not a url" }, /h has no address/],
  [
    "TLS, and no certificate here",
    { dataPlaneUrl: "https://127.0.0.1:1" },
    /reached by TLS alone.*set TLS_CERT_FILE/,
  ],
  [
    "no tickets, and no key of the fleet",
    { ticketKey: null },
    /knows no tickets: upgrade it, or set HOST_DATA_KEY_FILE/,
  ],
])("a host with %s is not sent to, and why is said", (_, given, message) => {
  const known = {
    id: "h" as HostId,
    dataPlaneUrl: "http://127.0.0.1:1",
    ticketKey: "ab".repeat(32),
    ...given,
  };
  const found = targetOf({ sandboxId: "a" as SandboxId, epoch: 1, host: known }, 7777, {
    hostKey: undefined,
    tls: undefined,
  });
  expect(found).toBeInstanceOf(Error);
  expect((found as Error).message).toMatch(message);
});
