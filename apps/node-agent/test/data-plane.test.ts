/** The data plane against a guest agent of this test, over real sockets. */
import { once } from "node:events";
import { createServer, type IncomingMessage, request as httpRequest, type Server } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { buffer, text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { runTicket, type SandboxId, snapshotTicket, unverifiedSandboxId } from "@torpor/contracts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Activity } from "../src/data-plane/activity.ts";
import { createDataPlane } from "../src/data-plane/data-plane.ts";

const SANDBOX_A = "a" as SandboxId;

const TICKET_KEY = "ab".repeat(32);
const seen: string[] = [];
const activity = new Activity();
const agent = createServer((incoming, response) => {
  seen.push(incoming.url ?? "");
  response.end(JSON.stringify(incoming.headers));
});
/** The program on port 3000 of the guest. */
const app = createServer((incoming, response) => {
  response.setHeader("set-cookie", ["a=1", "b=2"]);
  void text(incoming).then((body) =>
    response.end(JSON.stringify({ url: incoming.url, headers: incoming.headers, body })),
  );
});
agent.on("upgrade", (incoming: IncomingMessage, socket) => {
  if (incoming.url !== "/_torpor/tunnel?port=3000") {
    const body = JSON.stringify({ code: "PORT_NOT_OPEN", message: "no" });
    return void socket.end(
      `HTTP/1.1 404 No\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
  }
  socket.write(
    "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: torpor-tunnel\r\n\r\n",
  );
  const inside = connect((app.address() as AddressInfo).port, "127.0.0.1");
  inside.pipe(socket).pipe(inside);
});
const { server: plane } = createDataPlane({
  lock: { ticketKey: TICKET_KEY },
  findRoute: async (sandboxId) => {
    if (sandboxId === "unreadable")
      throw new Error("run.json is damaged", { cause: new Error("EIO") });
    return sandboxId === "a"
      ? {
          address: { kind: "tcp", host: "127.0.0.1", port: (agent.address() as AddressInfo).port },
          agentKey: "agent key",
        }
      : undefined;
  },
  activity,
  snapshots: {
    answer: async (_incoming, response) => void response.end(JSON.stringify({ door: "snapshots" })),
  },
});

beforeAll(async () => {
  for (const server of [agent, app, plane]) await once(server.listen(0, "127.0.0.1"), "listening");
});
afterAll(() => {
  for (const server of [agent, app, plane] as Server[]) {
    server.closeAllConnections();
    server.close();
  }
});

test("a sandbox that cannot be looked up is an answer with the reason, and the next one is served", async () => {
  const answer = await send("/info", { "x-torpor-sandbox": "unreadable" });
  expect(answer).toMatchObject({
    status: 503,
    body: {
      code: "SERVICE_UNAVAILABLE",
      message: expect.stringMatching(/run.json is damaged: EIO/),
    },
  });
  expect((await send("/info")).status).toBe(200);
});

const DRAIN_LIMIT_MS = 5_000;
const QUIET_MS = 100;

/** Sends a request with the ticket of the sandbox's run 1, unless `headers` have another. */
async function send(
  path: string,
  headers: Record<string, string> = {},
  body?: string,
  to: Server = plane,
) {
  const sandboxId = unverifiedSandboxId(headers["x-torpor-sandbox"] ?? "a");
  const ticket = runTicket(TICKET_KEY, { sandboxId, epoch: 1 });
  const { port } = to.address() as AddressInfo;
  const request = httpRequest({
    host: "127.0.0.1",
    port,
    path,
    method: body === undefined ? "GET" : "POST",
    headers: {
      "x-torpor-sandbox": "a",
      "x-torpor-epoch": "1",
      "x-torpor-ticket": ticket,
      ...headers,
    },
  });
  request.end(body);
  const [answer] = (await once(request, "response")) as [IncomingMessage];
  return {
    status: answer.statusCode,
    headers: answer.headers,
    body: JSON.parse((await buffer(answer)).toString()) as Record<string, unknown>,
  };
}

const SNAPSHOT = { sandboxId: SANDBOX_A, generation: 1, manifestSha256: "b" };

test("DP3: a host with the ticket of a snapshot is let to that one; a client of an edge is not, whatever it asks for", async () => {
  const { port } = plane.address() as AddressInfo;
  const path = "/_torpor/snapshots/a/1/b/index";
  const ask = async (headers: Record<string, string>) =>
    (await fetch(`http://127.0.0.1:${port}${path}`, { headers })).json();
  expect(await ask({ "x-torpor-ticket": snapshotTicket(TICKET_KEY, SNAPSHOT) })).toEqual({
    door: "snapshots",
  });
  const others = [
    snapshotTicket("cd".repeat(32), SNAPSHOT),
    snapshotTicket(TICKET_KEY, { ...SNAPSHOT, sandboxId: "c" as SandboxId }),
    snapshotTicket(TICKET_KEY, { ...SNAPSHOT, generation: 2 }),
    snapshotTicket(TICKET_KEY, { ...SNAPSHOT, manifestSha256: "d" }),
    runTicket(TICKET_KEY, { sandboxId: SANDBOX_A, epoch: 1 }),
    "",
  ];
  for (const ticket of others)
    expect(await ask({ "x-torpor-ticket": ticket })).toMatchObject({ code: "INVALID_TOKEN" });
  expect(await ask({})).toMatchObject({ code: "INVALID_TOKEN" });
  expect(await send(path)).toMatchObject({ status: 404, body: { code: "ENDPOINT_NOT_FOUND" } });
  // An edge always names a sandbox, even if a client sent an empty name.
  expect(await send(path, { "x-torpor-sandbox": "" })).toMatchObject({ status: 404 });
});

test("DP4: the ticket of a run opens that run and no other, and the fleet's key nothing where none is set", async () => {
  const ticket = (sandboxId: string, epoch: number, key = TICKET_KEY) => ({
    "x-torpor-ticket": runTicket(key, { sandboxId: unverifiedSandboxId(sandboxId), epoch }),
  });
  expect(await send("/info", ticket("a", 1))).toMatchObject({ status: 200 });
  for (const other of [
    ticket("a", 2),
    ticket("b", 1),
    ticket("a", 1, "cd".repeat(32)),
    { "x-torpor-ticket": "" },
    { "x-torpor-ticket": "", "x-torpor-host-key": "" },
    { "x-torpor-ticket": "", "x-torpor-host-key": "undefined" },
    { "x-torpor-epoch": "2" },
    { "x-torpor-epoch": "01x" },
  ])
    expect(await send("/info", other)).toMatchObject({
      status: 401,
      body: { code: "INVALID_TOKEN" },
    });
});

test("where a gateway or a host of 0.1.0 is, the fleet's key opens it too", async () => {
  const lock = { ticketKey: TICKET_KEY, hostKey: "host key" };
  const findRoute = async () => undefined;
  const old = createDataPlane({
    lock,
    findRoute,
    activity,
    snapshots: { answer: async (_, response) => void response.end('{"door":"snapshots"}') },
  });
  await once(old.server.listen(0, "127.0.0.1"), "listening");
  const shown = (key: string) => ({ "x-torpor-ticket": "", "x-torpor-host-key": key });
  expect(await send("/info", shown("host key"), undefined, old.server)).toMatchObject({
    status: 409,
  });
  expect(await send("/info", shown("guess"), undefined, old.server)).toMatchObject({ status: 401 });
  const { port } = old.server.address() as AddressInfo;
  const answer = await fetch(`http://127.0.0.1:${port}/_torpor/snapshots/a/1/b/index`, {
    headers: shown("host key"),
  });
  expect(await answer.json()).toEqual({ door: "snapshots" });
  old.server.close();
});

test.each([
  "/_torpor/shutdown",
  "/./_torpor/shutdown",
  "/x/../_torpor/shutdown",
  "//guest/_torpor/shutdown",
  "http://guest/_torpor/shutdown",
  "/%2e/_torpor/shutdown",
])("the agent's control calls are closed to clients, spelled %s", async (path) => {
  seen.length = 0;
  expect(await send(path)).toMatchObject({ status: 404, body: { code: "ENDPOINT_NOT_FOUND" } });
  expect(seen).toEqual([]);
});

test("DP2: the edge may ask for the ports, and that is no use of the sandbox", async () => {
  activity.forget(SANDBOX_A);
  const before = activity.idleMs(SANDBOX_A);
  expect((await send("/_torpor/ports?after=x", { "x-torpor-control": "ports" })).status).toBe(200);
  expect(seen.at(-1)).toBe("/_torpor/ports?after=x");
  expect(activity.idleMs(SANDBOX_A)).toBeGreaterThanOrEqual(before);
  expect((await send("/_torpor/shutdown", { "x-torpor-control": "ports" })).status).toBe(404);
  expect((await send("/_torpor/shutdown", { "x-torpor-control": "shutdown" })).status).toBe(404);
});

test("the agent gets its key and nobody's credentials", async () => {
  const { body } = await send("/info", { authorization: "Bearer secret", "x-api-key": "secret" });
  expect(body).toMatchObject({ "x-torpor-agent-key": "agent key" });
  expect(JSON.stringify(body)).not.toMatch(/secret|x-torpor-ticket/);
});

test("another port is reached through a tunnel, with the client's own host and credentials, and without the host's", async () => {
  const answer = await send(
    "/path?q=1",
    { "x-torpor-port": "3000", host: "3000-a.example.com", authorization: "Bearer own" },
    "hello",
  );
  expect(answer).toMatchObject({ status: 200, body: { url: "/path?q=1", body: "hello" } });
  expect(answer.headers["set-cookie"]).toEqual(["a=1", "b=2"]);
  expect(answer.body["headers"]).toMatchObject({
    host: "3000-a.example.com",
    authorization: "Bearer own",
  });
  expect(JSON.stringify(answer.body)).not.toMatch(/x-torpor|agent key/);
});

test("a port that nothing listens on is a 404 that says so; one that cannot be is a 400; a sandbox that is elsewhere a 409", async () => {
  expect(await send("/", { "x-torpor-port": "3001" })).toMatchObject({
    status: 404,
    body: { code: "PORT_NOT_OPEN" },
  });
  expect(await send("/", { "x-torpor-port": "0" })).toMatchObject({ status: 400 });
  expect(await send("/", { "x-torpor-port": "3000", "x-torpor-sandbox": "b" })).toMatchObject({
    status: 409,
    body: { code: "SANDBOX_NOT_RUNNING_HERE" },
  });
});

test("a request whose sandbox is still being looked up when the host begins to leave is answered", async () => {
  const [asked, found] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const leaving = createDataPlane({
    lock: { ticketKey: TICKET_KEY },
    findRoute: async () => {
      asked.resolve();
      await found.promise;
      return {
        address: { kind: "tcp", host: "127.0.0.1", port: (agent.address() as AddressInfo).port },
        agentKey: "agent key",
      };
    },
    activity,
    snapshots: { answer: async () => {} },
  });
  await once(leaving.server.listen(0, "127.0.0.1"), "listening");
  const answer = send("/execute", {}, "{}", leaving.server);
  await asked.promise;
  const drained = leaving.drain(DRAIN_LIMIT_MS);
  await sleep(QUIET_MS);
  found.resolve();
  expect(await answer).toMatchObject({ status: 200 });
  await drained;
});

test("a connection that was accepted before the host began to leave has its first request answered, and one that stays silent is not waited for", async () => {
  const leaving = createDataPlane({
    lock: { ticketKey: TICKET_KEY },
    findRoute: async () => ({
      address: { kind: "tcp", host: "127.0.0.1", port: (agent.address() as AddressInfo).port },
      agentKey: "agent key",
    }),
    activity,
    snapshots: { answer: async () => {} },
  });
  await once(leaving.server.listen(0, "127.0.0.1"), "listening");
  const { port } = leaving.server.address() as AddressInfo;
  const accepted = async () => {
    const taken = once(leaving.server, "connection");
    const socket = connect(port, "127.0.0.1");
    await Promise.all([taken, once(socket, "connect")]);
    return socket;
  };
  const [late, silent] = [await accepted(), await accepted()];
  const drained = leaving.drain(DRAIN_LIMIT_MS * 100);
  await sleep(QUIET_MS);
  const ticket = runTicket(TICKET_KEY, { sandboxId: SANDBOX_A, epoch: 1 });
  const named = `x-torpor-sandbox: a\r\nx-torpor-epoch: 1\r\nx-torpor-ticket: ${ticket}\r\n`;
  late.write(
    `POST /execute HTTP/1.1\r\nhost: h\r\nconnection: close\r\n${named}content-length: 2\r\n\r\n{}`,
  );
  expect(await text(late)).toMatch(/^HTTP\/1.1 200 /);
  const cut = once(silent, "close");
  await drained;
  await cut;
});
