/** The client against a server that records what it is sent. */
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { type AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ApiRefusal, createClient, NoAnswer } from "../src/index.ts";

interface Seen {
  method: string | undefined;
  url: string;
  headers: IncomingMessage["headers"];
  body: string;
}
type Answer = { status?: number; headers?: Record<string, string>; body: unknown };

let seen: Seen[] = [];
let answer: (request: Seen) => Answer;
const server = createServer((request, response) => void handle(request, response));
async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { method, url = "", headers } = request;
  const one = { method, url, headers, body: (await request.toArray()).join("") };
  seen.push(one);
  const { status = 200, headers: given = {}, body } = answer(one);
  response.writeHead(status, given).end(typeof body === "string" ? body : JSON.stringify(body));
}
let client: ReturnType<typeof createClient>;

beforeAll(async () => {
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  client = createClient({ baseUrl: `http://127.0.0.1:${port}`, apiKey: "a key" });
});
afterAll(async () => {
  server.closeAllConnections();
  await new Promise((done) => server.close(done));
});
beforeEach(() => {
  seen = [];
  answer = () => ({ body: { data: [], next_cursor: null } });
});

const rejection = async (call: Promise<unknown>): Promise<unknown> =>
  await call.then(
    () => expect.unreachable(),
    (error: unknown) => error,
  );

test("every route of the API has a function, and no function has another route", async () => {
  answer = ({ url }) => ({
    body: url.startsWith("/v1/operations") ? { ended_at: "now" } : { data: [], next_cursor: null },
  });
  const { sandboxes, operations, templates, hosts, admissions } = client;
  const { keys, organizations, audit, health } = client;
  const size = { vcpu: 1, memory_mb: 1, disk_mb: 1 };
  const template = { name: "t", image_sha256: "0".repeat(64), default_resources: size };
  await Promise.all([
    sandboxes.create({}),
    sandboxes.beginCreate({}),
    sandboxes.get("{id}"),
    Array.fromAsync(sandboxes.list()),
    sandboxes.patch("{id}", {}),
    ...[sandboxes.pause, sandboxes.resume, sandboxes.stop, sandboxes.start].map((to) => to("{id}")),
    sandboxes.delete("{id}"),
    sandboxes.begin("{id}", "pause"),
    sandboxes.begin("{id}", "delete"),
    Array.fromAsync(sandboxes.events("{id}")),
    sandboxes.setTimeout("{id}", 1),
    sandboxes.refreshToken("{id}"),
    sandboxes.revokeTokens("{id}"),
    sandboxes.previewLink("{id}", { port: 80 }),
    sandboxes.dryRun({}),
    operations.get("{id}"),
    operations.wait("{id}"),
    templates.list(),
    templates.get("{id}"),
    templates.create(template),
    templates.update("{id}", {}),
    templates.delete("{id}"),
    Array.fromAsync(hosts.list()),
    hosts.get("{id}"),
    ...[hosts.cordon, hosts.uncordon, hosts.retire, hosts.abortDrain].map((act) => act("{id}")),
    hosts.drain("{id}", { max_parallel: 1 }),
    Array.fromAsync(hosts.findings("{id}")),
    hosts.discard("{id}", "{sandbox}"),
    hosts.events("{id}"),
    admissions.createToken({}),
    Array.fromAsync(admissions.tokens()),
    admissions.revokeToken("{id}"),
    Array.fromAsync(admissions.list()),
    admissions.revoke("{id}"),
    Array.fromAsync(keys.list()),
    keys.create({ name: "k", scopes: ["read"] }),
    keys.revoke("{id}"),
    keys.rotate("{id}"),
    Array.fromAsync(organizations.list()),
    organizations.create("o"),
    organizations.quotas(1),
    organizations.setQuotas(1, {}),
    Array.fromAsync(audit.list()),
    health(),
  ]);
  const called = seen.map(({ method, url }) =>
    `${method} ${decodeURIComponent(url.split("?", 1)[0] ?? "")}`.replace("/1/", "/{id}/"),
  );
  const document = JSON.parse(
    readFileSync(new URL("../../../docs/openapi.json", import.meta.url), "utf8"),
  ) as { paths: Record<string, Record<string, unknown>> };
  const routes = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
  // A machine joins by its agent; templates are not built by the API.
  const notHere = [
    "POST /v1/host-admissions",
    "POST /v1/templates/build",
    "POST /v1/templates/files/upload-link",
  ];
  expect(new Set(called)).toEqual(new Set(routes.filter((route) => !notHere.includes(route))));
});

test("a list is read to its end, page by page, with its filters", async () => {
  const pages = [
    { data: [1, 2], next_cursor: "b+/=" },
    { data: [3], next_cursor: null },
  ];
  answer = () => ({ body: pages.shift() });
  const list = client.sandboxes.list({ status: "paused", metadata: { "team/x": "a b" } });
  expect(await Array.fromAsync(list)).toEqual([1, 2, 3]);
  const queries = seen.map(({ url }) => new URL(url, "http://x").searchParams);
  expect(queries.map((query) => query.get("metadata[team/x]"))).toEqual(["a b", "a b"]);
  expect(queries.map((query) => query.get("cursor"))).toEqual([null, "b+/="]);
});

test("a list asks for no page that is not taken", async () => {
  answer = () => ({ body: { data: [1, 2], next_cursor: "more" } });
  for await (const item of client.hosts.list()) {
    expect(item).toBe(1);
    break;
  }
  expect(seen).toHaveLength(1);
});

test("the key and the terms of a call are headers, and ids are encoded", async () => {
  await client.sandboxes.begin("a/../b", "pause", { idempotencyKey: "k-1", waitSeconds: 3 });
  expect(seen).toMatchObject([
    {
      method: "POST",
      url: "/v1/sandboxes/a%2F..%2Fb/pause",
      headers: {
        "x-api-key": "a key",
        "idempotency-key": "k-1",
        prefer: "respond-async, wait=3",
      },
      body: "",
    },
  ]);
});

test("a pause waits for its copy in the store where that is asked for", async () => {
  await client.sandboxes.pause("s", { waitFor: "replicated" });
  await client.sandboxes.pause("s");
  expect(seen.map(({ url }) => url)).toEqual([
    "/v1/sandboxes/s/pause?wait_for=replicated",
    "/v1/sandboxes/s/pause",
  ]);
});

test("an operation is read until it has ended", async () => {
  const ends = [null, null, "2026-01-01T00:00:00.000Z"];
  answer = () => ({ body: { id: "op-1", ended_at: ends.shift() } });
  expect(await client.operations.wait("op-1")).toMatchObject({ ended_at: expect.any(String) });
  expect(seen).toHaveLength(3);
});

describe("a refusal", () => {
  test("is an error with the code, the details and when to come again", async () => {
    answer = () => ({
      status: 429,
      headers: { "retry-after": "7" },
      body: {
        message: "No host has room.",
        code: "RESOURCE_LIMIT_ERROR",
        details: { hosts: 2 },
        request_id: "r-1",
      },
    });
    const refusal = await rejection(client.sandboxes.create({}));
    expect(refusal).toBeInstanceOf(ApiRefusal);
    expect(refusal).toMatchObject({
      message: "No host has room.",
      status: 429,
      code: "RESOURCE_LIMIT_ERROR",
      details: { hosts: 2 },
      requestId: "r-1",
      retryAfterSeconds: 7,
    });
  });

  test.each([["null"], ["[]"], ['"text"'], ['{"message":1,"code":2,"details":[]}'], ["<html>"]])(
    "whose body is %s says its status",
    async (body) => {
      answer = () => ({ status: 502, body });
      const refusal = await rejection(client.health());
      expect(refusal).toMatchObject({ status: 502, code: "UNKNOWN", details: {} });
      expect(String(refusal)).toContain("502");
    },
  );
});

describe("no answer", () => {
  test("that is JSON", async () => {
    answer = () => ({ body: "<html>" });
    expect(await rejection(client.health())).toBeInstanceOf(NoAnswer);
  });

  test("but an operation that was not asked for", async () => {
    answer = () => ({ status: 202, body: { object: "operation" } });
    expect(await rejection(client.sandboxes.create({}))).toBeInstanceOf(NoAnswer);
    expect(await client.sandboxes.beginCreate({})).toEqual({ object: "operation" });
  });

  test("from an address where nothing listens names it", async () => {
    const lost = createClient({ baseUrl: "http://127.0.0.1:1", apiKey: "k" });
    const error = await rejection(lost.sandboxes.get("x"));
    expect(error).toBeInstanceOf(NoAnswer);
    expect(String(error)).toContain("GET /v1/sandboxes/x: the API at http://127.0.0.1:1");
  });

  test("within the limit", async () => {
    answer = () => ({ body: { ended_at: null } });
    const slow = client.operations.wait("op-1", {
      limitMs: 60_000,
      signal: AbortSignal.timeout(50),
    });
    expect(await rejection(slow)).toMatchObject({ name: expect.stringMatching(/Abort|Timeout/) });
  });
});
