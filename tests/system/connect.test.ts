/**
 * What the SDKs rely on beyond the lifecycle itself: connecting in every state, tokens, lists,
 * timeouts, exact types. Simulated hosts, the official JS SDK unmodified.
 */
import { once } from "node:events";
import { Agent, type IncomingMessage, request as httpRequest } from "node:http";
import { json } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { Sandbox } from "@hopx-ai/sdk";
import {
  ApiRefusal,
  type CreateSandboxBody,
  runCode,
  startTestFleet,
  type TestFleet,
  until,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet({ hosts: 1, schedulers: 1 });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

type Body = Record<string, unknown>;
const idOf = async (body: CreateSandboxBody = {}) => (await fleet.createSandbox(body)).id;
const get = (id: string) => fleet.client.sandboxes.get(id);
const connect = (id: string) => Sandbox.connect(id, fleet.apiKey, fleet.url);

describe("connecting with the JS SDK", () => {
  test("to a running sandbox: its agent is usable at once", async () => {
    const id = await idOf();
    const sandbox = await connect(id);
    expect((await sandbox.runCode("x = 42", { language: "python" })).success).toBe(true);
    expect(await sandbox.isHealthy()).toBe(true);
    await sandbox.kill();
  });

  test("S49: to a paused sandbox: it is resumed, memory and address are the same, and tokens from before stay good", async () => {
    const before = await Sandbox.create({
      template: "code-interpreter",
      apiKey: fleet.apiKey,
      baseURL: fleet.url,
    });
    await before.runCode("x = 42", { language: "python" });
    const { publicHost } = await before.getInfo();
    await before.pause();
    const sandbox = await connect(before.sandboxId);
    expect(await sandbox.getInfo()).toMatchObject({ status: "running", publicHost });
    expect((await sandbox.runCode("print(x)", { language: "python" })).stdout).toBe("42\n");
    await sandbox.refreshToken();
    expect((await before.runCode("print(x)", { language: "python" })).stdout).toBe("42\n");
    await sandbox.kill();
  });

  test("S49: to a stopped or a deleted one: an error that says so, and nothing is started", async () => {
    const id = await idOf();
    await fleet.client.sandboxes.stop(id);
    await expect(connect(id)).rejects.toThrow(/stopped/);
    expect(await get(id)).toMatchObject({ status: "stopped" });
    await fleet.client.sandboxes.delete(id);
    await expect(connect(id)).rejects.toThrow(/not found/);
  });
});

test("a refused upload leaves the connection whole: its answer comes, and the next request's", async () => {
  const { public_host: host, auth_token: token } = await fleet.createSandbox();
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const headers = { authorization: `Bearer ${token}` };
  const post = async (path: string, body: string | Buffer) => {
    const request = httpRequest(new URL(path, host), { method: "POST", agent, headers });
    request.end(body);
    const [answer] = (await once(request, "response")) as [IncomingMessage];
    return { status: answer.statusCode, body: (await json(answer)) as Body };
  };
  // The host refuses the upload without reading it. The upload is larger than all socket buffers on
  // the way.
  const upload = Buffer.alloc(32 * 1024 ** 2);
  for (let round = 0; round < 3; round++) {
    const refused = { status: 404, body: { code: "ENDPOINT_NOT_FOUND" } };
    expect(await post("/_torpor/shutdown", upload)).toMatchObject(refused);
    const run = JSON.stringify({ code: "print(1)", language: "python" });
    expect(await post("/execute", run)).toMatchObject({ status: 200 });
  }
  agent.destroy();
});

test("a token is given out in every state but deleted, and works in the next run", async () => {
  const { sandboxes } = fleet.client;
  const { sandbox_id: id } = await sandboxes.beginCreate({ template_name: "code-interpreter" });
  const tokens = [(await sandboxes.refreshToken(id)).auth_token];
  await fleet.untilSandbox("it runs", id, ({ status }) => status === "running");
  for (const verb of ["pause", "stop"] as const) {
    await sandboxes[verb](id);
    const reply = await sandboxes.refreshToken(id);
    expect(Date.parse(reply.token_expires_at)).toBeGreaterThan(Date.now() + 24 * 3600 * 1000);
    tokens.push(reply.auth_token);
  }
  await sandboxes.start(id);
  const { public_host } = await get(id);
  for (const auth_token of tokens)
    expect(await runCode({ public_host, auth_token }, "x = 1")).toMatchObject({ success: true });
  await sandboxes.delete(id);
  await expect(sandboxes.refreshToken(id)).rejects.toMatchObject({ status: 404 });
});

test("Prefer: respond-async on a create answers 202 with the operation, which names the sandbox", async () => {
  const answer = await fleet.call("POST", "/v1/sandboxes", {
    body: { template_name: "code-interpreter" },
    headers: { prefer: "respond-async" },
  });
  expect(answer).toMatchObject({ status: 202, body: { object: "operation", kind: "create" } });
  expect(answer.headers.get("preference-applied")).toBe("respond-async");
  const location = answer.headers.get("location") ?? "";
  await until(
    "the create ends",
    async () => (await fleet.call("GET", location)).body["status"] === "succeeded",
  );
  expect(await get(String(answer.body["sandbox_id"]))).toMatchObject({ status: "running" });
});

describe("lists", () => {
  test("pages follow each other by the cursor without gaps; filters hold; the SDK's iterator sees every sandbox once", async () => {
    const made = await Promise.all(Array.from({ length: 5 }, () => idOf()));
    const [paused = ""] = made;
    await fleet.client.sandboxes.pause(paused);
    const seen: string[] = [];
    for (let cursor = ""; ;) {
      const page = (await fleet.call("GET", `/v1/sandboxes?limit=2${cursor}`)).body as {
        data: Body[];
        has_more: boolean;
        next_cursor: string | null;
      };
      seen.push(...page.data.map(({ id }) => String(id)));
      expect(page.has_more).toBe(page.next_cursor !== null);
      if (page.next_cursor === null) break;
      expect(page.data).toHaveLength(2);
      cursor = `&cursor=${page.next_cursor}`;
    }
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen).toEqual(expect.arrayContaining(made));
    const options = { apiKey: fleet.apiKey, baseURL: fleet.url };
    const iterated: string[] = [];
    for await (const sandbox of Sandbox.iter(options)) iterated.push(sandbox.sandboxId);
    expect(iterated.toSorted()).toEqual(seen.toSorted());
    expect(
      (await Sandbox.list({ ...options, status: "paused" })).map(({ sandboxId }) => sandboxId),
    ).toEqual([paused]);
    expect((await Sandbox.list({ ...options, region: "local" })).length).toBe(seen.length);
    expect(await Sandbox.list({ ...options, region: "elsewhere" })).toEqual([]);
    const ids = async (query: string) => {
      const { status, body } = await fleet.call("GET", `/v1/sandboxes?${query}`);
      return status === 200 ? (body["data"] as Body[]).map(({ id }) => id) : body["message"];
    };
    const mine = await idOf({ metadata: { job: "a", "team/x": "ü b" } });
    await idOf({ metadata: { job: "b" } });
    expect(await ids("status=paused,creating")).toEqual([paused]);
    expect(await ids("status=running,paused")).toHaveLength(seen.length + 2);
    expect(await ids("metadata[job]=a")).toEqual([mine]);
    const both = `metadata[job]=a&metadata[${encodeURIComponent("team/x")}]=${encodeURIComponent("ü b")}`;
    expect(await ids(both)).toEqual([mine]);
    expect(await ids("metadata[job]=a&status=paused")).toEqual([]);
    expect(await ids("metadata[job]=c")).toEqual([]);
    for (const [query, said] of [
      ["metdata[job]=a", /metdata\[job\] is not a parameter: there are limit, status/],
      ["metadata=a", /metadata/],
      ["metadata[job]=a&metadata[job]=b", /metadata\[job\] must be given once/],
      ["status=running,gone", /status must be one or more of running/],
    ] as const)
      expect(await ids(query)).toMatch(said);
    const forced = await fleet.call("DELETE", `/v1/sandboxes/${mine}?force=true`);
    expect(forced.body["message"]).toMatch(/force is not a parameter: this request takes none/);
    await get(mine);
    expect((await fleet.call("GET", "/v1/sandboxes?cursor=bm8")).body).toMatchObject({
      code: "INVALID_REQUEST",
      message: expect.stringMatching(/cursor/),
    });
    await Promise.all(made.map((id) => fleet.client.sandboxes.delete(id)));
  });
});

describe("timeouts", () => {
  test("S55, S7: the clock of a paused sandbox stands still; it runs again with the sandbox, which is deleted at its end, with an event that says why", async () => {
    const { sandboxes, operations } = fleet.client;
    const id = await idOf({ timeout_seconds: 600 });
    expect(Date.parse(String((await get(id)).expires_at))).toBeGreaterThan(Date.now());
    await sandboxes.pause(id);
    expect(await get(id)).toMatchObject({ timeout_seconds: 600, expires_at: null });
    const set = await sandboxes.setTimeout(id, 2);
    expect(set).toMatchObject({ id, timeout_seconds: 2, expires_at: null });
    // Longer than the timeout, which must not run while the sandbox is paused.
    await sleep(4_000);
    expect(await get(id)).toMatchObject({ status: "paused" });
    await sandboxes.resume(id);
    const isDeleted = async () =>
      await get(id).then(
        () => false,
        (error: unknown) => error instanceof ApiRefusal && error.status === 404,
      );
    await until("it is deleted", isDeleted, 30_000);
    const deleted = (await fleet.events(id)).find(({ fact }) => fact === "delete_accepted");
    expect(await operations.get(deleted?.operation_id ?? "")).toMatchObject({
      requested_by: "system:timeout",
    });
  });

  test("S32: a timeout that is set while it runs replaces the old one, and is kept over pause and resume", async () => {
    const id = await idOf({ timeout_seconds: 600 });
    const sandbox = await connect(id);
    await sandbox.setTimeout(7200);
    const { expires_at } = await get(id);
    expect(Date.parse(String(expires_at)) - Date.now()).toBeGreaterThan(3_600_000);
    await fleet.client.sandboxes.pause(id);
    await fleet.client.sandboxes.resume(id);
    const resumed = await get(id);
    expect(resumed).toMatchObject({ timeout_seconds: 7200 });
    expect(Date.parse(String(resumed.expires_at))).toBeGreaterThanOrEqual(
      Date.parse(String(expires_at)),
    );
    await sandbox.kill();
  });
});

describe("exact types", () => {
  const TIMESTAMP = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

  test("a sandbox is what both SDKs parse: ids as text, the organization as a number, whole resources, timestamps of three digits, no null but where one is meant", async () => {
    const created = await fleet.createSandbox();
    for (const sandbox of [created, await get(created.id)]) {
      expect(sandbox).toMatchObject({
        object: "sandbox",
        template_id: expect.any(String),
        organization_id: expect.any(Number),
        resources: {
          vcpu: expect.any(Number),
          memory_mb: expect.any(Number),
          disk_mb: expect.any(Number),
        },
        created_at: expect.stringMatching(TIMESTAMP),
        updated_at: expect.stringMatching(TIMESTAMP),
        started_at: expect.stringMatching(TIMESTAMP),
        request_id: expect.any(String),
      });
      const nulls = Object.entries(sandbox).filter(([, value]) => value === null);
      expect(nulls.map(([name]) => name).toSorted()).toEqual([
        "auto_pause",
        "expires_at",
        "timeout_seconds",
      ]);
    }
    expect(created).toMatchObject({
      auth_token: expect.any(String),
      token_expires_at: expect.stringMatching(TIMESTAMP),
    });
    expect(await get(created.id)).not.toHaveProperty("auth_token");
    const [template] = await fleet.client.templates.list();
    expect(template).toMatchObject({
      id: expect.any(String),
      display_name: expect.any(String),
      features: [],
      tags: [],
      is_active: true,
      status: "active",
    });
    expect(await fleet.client.sandboxes.delete(created.id)).toMatchObject({
      id: created.id,
      status: "deleted",
    });
  });

  test("openapi.json describes every route, with its errors", async () => {
    const { paths } = (await fleet.call("GET", "/openapi.json")).body as {
      paths: Record<string, Record<string, { responses: object }>>;
    };
    const routes = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method} ${path}`),
    );
    expect(routes.toSorted()).toEqual([
      "delete /v1/host-admissions/{id}",
      "delete /v1/host-tokens/{id}",
      "delete /v1/keys/{id}",
      "delete /v1/sandboxes/{id}",
      "delete /v1/templates/{id}",
      "get /health",
      "get /v1/audit",
      "get /v1/host-admissions",
      "get /v1/host-tokens",
      "get /v1/hosts",
      "get /v1/hosts/{id}",
      "get /v1/hosts/{id}/events",
      "get /v1/hosts/{id}/findings",
      "get /v1/keys",
      "get /v1/operations/{id}",
      "get /v1/organizations",
      "get /v1/organizations/{id}/quotas",
      "get /v1/sandboxes",
      "get /v1/sandboxes/{id}",
      "get /v1/sandboxes/{id}/events",
      "get /v1/templates",
      "get /v1/templates/{id}",
      "patch /v1/sandboxes/{id}",
      "patch /v1/templates/{id}",
      "post /v1/host-admissions",
      "post /v1/host-tokens",
      "post /v1/hosts/{id}/cordon",
      "post /v1/hosts/{id}/drain",
      "post /v1/hosts/{id}/drain/abort",
      "post /v1/hosts/{id}/findings/{sandbox}/discard",
      "post /v1/hosts/{id}/retire",
      "post /v1/hosts/{id}/uncordon",
      "post /v1/keys",
      "post /v1/keys/{id}/rotate",
      "post /v1/organizations",
      "post /v1/placements/dry-run",
      "post /v1/sandboxes",
      "post /v1/sandboxes/{id}/pause",
      "post /v1/sandboxes/{id}/preview-links",
      "post /v1/sandboxes/{id}/resume",
      "post /v1/sandboxes/{id}/start",
      "post /v1/sandboxes/{id}/stop",
      "post /v1/sandboxes/{id}/token/refresh",
      "post /v1/sandboxes/{id}/token/revoke",
      "post /v1/templates",
      "post /v1/templates/build",
      "post /v1/templates/files/upload-link",
      "put /v1/organizations/{id}/quotas",
      "put /v1/sandboxes/{id}/timeout",
    ]);
    for (const [path, methods] of Object.entries(paths))
      if (path.startsWith("/v1"))
        for (const { responses } of Object.values(methods))
          expect(Object.keys(responses)).toEqual(expect.arrayContaining(["4XX", "5XX"]));
  });
});
