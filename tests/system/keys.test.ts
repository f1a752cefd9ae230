/**
 * API keys and their scopes on a whole fleet: what each key may do through the API and through the
 * edge, and how a key ends.
 */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { APIError, Sandbox } from "@hopx-ai/sdk";
import {
  type ApiAnswer,
  type Client,
  ROOT,
  type SandboxResource,
  startTestFleet,
  type TestFleet,
  until,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

type Body = Record<string, unknown>;
const run = promisify(execFile);
let fleet: TestFleet;
let sandbox: SandboxResource;
beforeAll(async () => {
  fleet = await startTestFleet({ hosts: 1, schedulers: 1 });
  sandbox = await fleet.createSandbox({ preview_access: "token" });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

type NewKey = Parameters<Client["keys"]["create"]>[0];
let made = 0;
async function makeKey(scopes: NewKey["scopes"], given: Partial<NewKey> = {}) {
  made += 1;
  return await fleet.client.keys.create({ name: `key ${made}`, scopes, ...given });
}
const as = (apiKey: string) => (method: string, path: string, body?: unknown) =>
  fleet.call(method, path, { apiKey, ...(body === undefined ? {} : { body }) });
const pathOf = ({ id }: Body) => `/v1/sandboxes/${String(id)}`;
const missing = (scope: string) => ({
  status: 403,
  body: { code: "SCOPE_MISSING", details: { missing_scope: scope } },
});
/** Status of a call to the sandbox's agent with the sandbox's token. */
const use = (token: string) => executeWith({ authorization: `Bearer ${token}` });
/** Status of the same call with an API key. */
const execute = (apiKey: string) => executeWith({ "x-api-key": apiKey });
async function executeWith(credentials: Record<string, string>): Promise<number> {
  const response = await fetch(new URL("/execute", sandbox.public_host), {
    method: "POST",
    headers: { ...credentials, "content-type": "application/json" },
    body: JSON.stringify({ code: "print(1)", language: "python" }),
  });
  await response.arrayBuffer();
  return response.status;
}
const keyOf = async (id: number) =>
  (await Array.fromAsync(fleet.client.keys.list())).find((key) => key.id === id);
const refused = (what: string, apiKey: string) =>
  until(`${what} is refused`, async () => {
    const { status, body } = await as(apiKey)("GET", "/v1/sandboxes");
    if (status === 200) return false;
    expect([status, body["code"]]).toEqual([401, "INVALID_TOKEN"]);
    return true;
  });

describe("a tenant's key", () => {
  test("has nothing to do with hosts, organizations, and other tenants", async () => {
    const call = as((await makeKey(["read", "lifecycle", "exec"])).secret);
    expect(await fleet.hosts()).toMatchObject([{ id: "host-1", state: "ready" }]);
    const answers: ApiAnswer[] = [
      await call("GET", "/v1/hosts"),
      await call("GET", "/v1/hosts/host-1"),
      await call("GET", "/v1/hosts/host-1/events"),
      await call("POST", "/v1/hosts/host-1/cordon"),
      await call("POST", "/v1/hosts/host-1/uncordon"),
      await call("POST", "/v1/hosts/host-1/retire"),
      await call("POST", "/v1/hosts/host-1/drain", { max_parallel: 1 }),
      await call("POST", "/v1/hosts/host-1/drain/abort"),
      await call("POST", `/v1/hosts/host-1/findings/${sandbox.id}/discard`),
      await call("GET", "/v1/organizations"),
      await call("POST", "/v1/organizations", { name: "mine" }),
      await call("GET", "/v1/keys?organization=nobody"),
      await call("POST", "/v1/keys", { name: "n", scopes: ["read"], organization: "nobody" }),
    ];
    for (const answer of answers) expect(answer).toMatchObject(missing("operator"));
    const host = await fleet.client.hosts.get("host-1");
    expect(host, "nothing was done to the host").toMatchObject({ state: "ready", drain: null });
    expect((await call("GET", "/v1/sandboxes")).status).toBe(200);
  });

  test("makes keys that can do no more than itself, and sees those of its organization only", async () => {
    const name = "acme";
    const organization = await fleet.call("POST", "/v1/organizations", { body: { name } });
    expect(organization).toMatchObject({ status: 201, body: { object: "organization", name } });
    const theirs = await makeKey(["read", "lifecycle"], { organization: name });
    const call = as(theirs.secret);
    const other = await makeKey(["read"]);
    const create = (scopes: string[]) => call("POST", "/v1/keys", { name: "child", scopes });
    expect(await create(["read", "exec"])).toMatchObject(missing("exec"));
    expect(await create(["operator"])).toMatchObject(missing("operator"));
    const child = await create(["read"]);
    expect(child).toMatchObject({
      status: 201,
      body: { organization: name, created_by: `api-key:${theirs.id}`, status: "active" },
    });
    const { body } = await call("GET", "/v1/keys");
    const seen = (body["data"] as Body[]).map(({ id }) => id);
    expect(seen).toEqual([child.body["id"], theirs.id]);
    expect(JSON.stringify(body)).not.toContain(theirs.secret);
    for (const answer of [
      await call("DELETE", `/v1/keys/${other.id}`),
      await call("POST", `/v1/keys/${other.id}/rotate`),
    ])
      expect(answer).toMatchObject({ status: 404, body: { code: "RESOURCE_NOT_FOUND" } });
    const strong = await makeKey(["read", "exec"], { organization: name });
    expect(await call("POST", `/v1/keys/${strong.id}/rotate`)).toMatchObject(missing("exec"));
    expect(await call("DELETE", `/v1/keys/${strong.id}`)).toMatchObject(missing("exec"));
    expect((await call("DELETE", `/v1/keys/${String(child.body["id"])}`)).status).toBe(200);
    // The sandbox belongs to another organization.
    expect((await call("GET", pathOf(sandbox))).status).toBe(404);
  });

  test("that ends makes no key that ends later", async () => {
    const soon = new Date(Date.now() + 600_000).toISOString();
    const short = await makeKey(["read", "lifecycle"], { expires_at: soon });
    const call = as(short.secret);
    const create = (given: Body) =>
      call("POST", "/v1/keys", { name: "n", scopes: ["read"], ...given });
    expect(await create({})).toMatchObject({ status: 201, body: { expires_at: soon } });
    for (const expires_at of [null, "2131-01-01T00:00:00Z"])
      expect(await create({ expires_at })).toMatchObject({
        status: 400,
        body: { code: "INVALID_REQUEST", details: { fields: [{ field: "expires_at" }] } },
      });
    const lasting = await makeKey(["read"]);
    expect(await call("POST", `/v1/keys/${lasting.id}/rotate`)).toMatchObject({
      status: 403,
      body: { code: "FORBIDDEN" },
    });
  });
});

test("a read key reads, and creates, changes and deletes nothing; the SDK hands the 403 on", async () => {
  const { secret } = await makeKey(["read"]);
  const call = as(secret);
  for (const path of [
    "/v1/sandboxes",
    pathOf(sandbox),
    `${pathOf(sandbox)}/events`,
    "/v1/templates",
  ])
    expect(await call("GET", path)).toMatchObject({ status: 200 });
  const create = { template_name: "code-interpreter" };
  for (const answer of [
    await call("POST", "/v1/sandboxes", create),
    await call("PATCH", pathOf(sandbox), { auto_resume: true }),
    await call("PUT", `${pathOf(sandbox)}/timeout`, { timeout_seconds: 60 }),
    await call("POST", `${pathOf(sandbox)}/pause`),
    await call("DELETE", pathOf(sandbox)),
    await call("POST", "/v1/keys", { name: "n", scopes: ["read"] }),
  ])
    expect(answer).toMatchObject(missing("lifecycle"));
  const seen = await fleet.client.sandboxes.get(sandbox.id);
  expect(seen).toMatchObject({ status: "running", auto_resume: false, timeout_seconds: null });
  expect((await call("GET", "/v1/sandboxes")).body["data"]).toHaveLength(1);

  const options = { template: "code-interpreter", apiKey: secret, baseURL: fleet.url };
  const error = await Sandbox.create(options).catch((cause: unknown) => cause);
  expect(error).toBeInstanceOf(APIError);
  expect(error).toMatchObject({ statusCode: 403, code: "SCOPE_MISSING" });
});

test("a key without exec gets no token and runs no code, in its own sandbox either; one with exec does", async () => {
  const lifecycle = await makeKey(["read", "lifecycle"]);
  const call = as(lifecycle.secret);
  const own = await call("POST", "/v1/sandboxes", { template_name: "code-interpreter" });
  expect(own.status).toBe(201);
  expect(own.body).not.toHaveProperty("auth_token");
  expect(own.body).not.toHaveProperty("token_expires_at");
  expect(await call("POST", `${pathOf(own.body)}/token/refresh`)).toMatchObject(missing("exec"));
  expect(await execute(lifecycle.secret)).toBe(403);
  expect((await call("DELETE", pathOf(own.body))).status).toBe(200);

  const exec = await makeKey(["exec"]);
  expect(await execute(exec.secret)).toBe(200);
  const token = await as(exec.secret)("POST", `${pathOf(sandbox)}/token/refresh`);
  expect(token).toMatchObject({ status: 200, body: { auth_token: expect.any(String) } });
  expect(await as(exec.secret)("GET", pathOf(sandbox))).toMatchObject(missing("read"));
});

test("a key in the form e2b_<hex> works like any, on the API and at the edge, and is rotated into another", async () => {
  const { id, secret } = await makeKey(["read", "exec", "lifecycle"], { form: "e2b" });
  expect(secret).toMatch(/^e2b_[0-9a-f]{48}$/);
  expect((await as(secret)("GET", pathOf(sandbox))).status).toBe(200);
  expect(await execute(secret)).toBe(200);
  const bearer = await fleet.call("GET", pathOf(sandbox), {
    apiKey: null,
    headers: { authorization: `Bearer ${secret}` },
  });
  expect(bearer.status).toBe(200);
  const rotated = await as(secret)("POST", `/v1/keys/${id}/rotate`);
  expect(rotated.body["secret"]).toMatch(/^e2b_[0-9a-f]{48}$/);
  expect((await makeKey(["read"])).secret).toMatch(/^torpor_live_[0-9a-f]{48}$/);
});

describe("a sandbox's tokens end", () => {
  const tokenOf = async (apiKey: string) =>
    (await fleet.clientOf(apiKey).sandboxes.refreshToken(sandbox.id)).auth_token;

  test("at once when they are revoked, all of them; new ones are good", async () => {
    const { secret } = await makeKey(["exec"]);
    const [token, first] = [await tokenOf(secret), String(sandbox.auth_token)];
    expect([await use(token), await use(first)]).toEqual([200, 200]);
    const revoked = await as(secret)("POST", `${pathOf(sandbox)}/token/revoke`);
    expect(revoked).toMatchObject({ status: 200, body: { token_generation: 1 } });
    expect([await use(token), await use(first)]).toEqual([401, 401]);
    expect(await use(await tokenOf(secret))).toBe(200);
    expect((await fleet.events(sandbox.id)).map(({ fact }) => fact)).toContain("tokens_revoked");
    const stranger = await makeKey(["read"]);
    expect(await as(stranger.secret)("POST", `${pathOf(sandbox)}/token/revoke`)).toMatchObject({
      status: 403,
      body: { code: "SCOPE_MISSING" },
    });
    const unknown = await fleet.call("POST", "/v1/sandboxes/1763309903rt5vs4lm/token/revoke");
    expect(unknown.status).toBe(404);
  });

  test("with the key that got them, soon after it is revoked; a rotation ends none", async () => {
    const [revoked, rotated] = [await makeKey(["exec"]), await makeKey(["exec"])];
    const [theirs, kept] = [await tokenOf(revoked.secret), await tokenOf(rotated.secret)];
    expect([await use(theirs), await use(kept)]).toEqual([200, 200]);
    await fleet.client.keys.rotate(rotated.id);
    await fleet.client.keys.revoke(revoked.id);
    await until("its token is refused", async () => (await use(theirs)) === 401);
    await refused("a rotated key", rotated.secret);
    expect(await use(kept)).toBe(200);
  });
});

describe("a key ends", () => {
  test("when it is revoked, on the API and at the edge; again changes nothing", async () => {
    const { id, secret } = await makeKey(["read", "exec"]);
    expect((await as(secret)("GET", "/v1/sandboxes")).status).toBe(200);
    expect(await execute(secret)).toBe(200);
    const revoked = await fleet.client.keys.revoke(id);
    expect(revoked).toMatchObject({ id, status: "revoked" });
    expect((await fleet.client.keys.revoke(id)).revoked_at).toBe(revoked.revoked_at);
    await refused("a revoked key", secret);
    await until("the edge refuses it too", async () => (await execute(secret)) === 401);
    expect(await fleet.call("POST", `/v1/keys/${id}/rotate`)).toMatchObject({
      status: 409,
      body: { code: "CONFLICT", details: { current_state: "revoked" } },
    });
  });

  test("when it expires", async () => {
    const inAnHour = new Date(Date.now() + 3_600_000).toISOString();
    const { id, secret } = await makeKey(["read"], { expires_at: inAnHour });
    expect((await as(secret)("GET", "/v1/sandboxes")).status).toBe(200);
    const sql = postgres(fleet.fleet.state.databaseUrl, { max: 1 });
    // The hour is over.
    await sql`UPDATE api_keys SET expires_at = now() WHERE id = ${id}`;
    await sql.end();
    await refused("an expired key", secret);
    expect(await keyOf(id)).toMatchObject({ status: "expired", revoked_at: null });
  });

  test("when it is rotated: at once without an overlap, else when that is over", async () => {
    const { id, secret } = await makeKey(["read", "lifecycle"]);
    const first = await as(secret)("POST", `/v1/keys/${id}/rotate`, { overlap_seconds: 3600 });
    expect(first).toMatchObject({
      status: 201,
      body: { scopes: ["read", "lifecycle"], replaces: { id, status: "active" } },
    });
    const second = { id: Number(first.body["id"]), secret: String(first.body["secret"]) };
    for (const one of [secret, second.secret])
      expect((await as(one)("GET", "/v1/sandboxes")).status).toBe(200);
    expect(await fleet.call("POST", `/v1/keys/${id}/rotate`)).toMatchObject({
      status: 409,
      body: { details: { replaced_by: second.id } },
    });
    const third = await fleet.call("POST", `/v1/keys/${second.id}/rotate`);
    expect(third).toMatchObject({ status: 201, body: { replaces: { status: "revoked" } } });
    await refused("the rotated key", second.secret);
    expect((await as(String(third.body["secret"]))("GET", "/v1/sandboxes")).status).toBe(200);
    expect((await as(secret)("GET", "/v1/sandboxes")).status, "its overlap goes on").toBe(200);
  });
});

test("the last use of a key is noted, also one at the edge, and a secret is in no row", async () => {
  const [api, edge, unused] = [
    await makeKey(["read"]),
    await makeKey(["exec"]),
    await makeKey(["read"]),
  ];
  await as(api.secret)("GET", "/v1/sandboxes");
  await execute(edge.secret);
  for (const { id } of [api, edge])
    await until("the use is noted", async () => (await keyOf(id))?.last_used_at !== null);
  expect(await keyOf(unused.id)).toMatchObject({ last_used_at: null });
  const sql = postgres(fleet.fleet.state.databaseUrl, { max: 1 });
  const rows = await sql`SELECT t::text AS row FROM api_keys t`;
  await sql.end();
  for (const { secret } of [api, edge, unused])
    expect(rows.map(({ row }) => String(row)).join("\n")).not.toContain(secret);
});

test("the audit log has what was done, by which key and from where, and what was refused, and no secret", async () => {
  const { id, secret } = await makeKey(["read", "exec"]);
  const call = as(secret);
  await call("GET", "/v1/sandboxes");
  await call("POST", `${pathOf(sandbox)}/token/refresh`);
  await call("POST", "/v1/hosts/host-1/cordon");
  await call("GET", "/v1/hosts");
  const lifecycle = await makeKey(["lifecycle"]);
  await execute(lifecycle.secret);
  const path = "/v1/sandboxes/guessed?token=hidden";
  await fleet.call("GET", path, { apiKey: "guess", headers: { "x-forwarded-for": "192.0.2.1" } });

  const entries = async (filter: { requested_by?: string } = {}) =>
    await Array.fromAsync(fleet.client.audit.list(filter));
  const by = { requested_by: `api-key:${id}`, address: "127.0.0.1" };
  const refused = { status: 403, code: "SCOPE_MISSING" };
  expect(await entries({ requested_by: `api-key:${id}` }), "newest first").toMatchObject([
    { ...by, method: "GET", path: "/v1/hosts", ...refused },
    { ...by, method: "POST", path: "/v1/hosts/host-1/cordon", ...refused },
    { ...by, method: "POST", path: `${pathOf(sandbox)}/token/refresh`, status: 200, code: null },
  ]);
  const made = (await entries()).find(({ resource }) => resource === String(id));
  expect(made, "the key was made").toMatchObject({
    requested_by: "api-key:1",
    method: "POST",
    path: "/v1/keys",
    status: 201,
  });
  // The edge responds before its audit entries are written.
  const atTheEdge = await until("the edge's entry is there", async () => {
    const [entry] = await entries({ requested_by: `api-key:${lifecycle.id}` });
    return entry;
  });
  const at = { path: "edge:7777", resource: sandbox.id, address: "127.0.0.1" };
  expect(atTheEdge).toMatchObject({ method: "POST", ...at, ...refused });
  const all = await entries();
  expect(all.find((entry) => entry.path === "/v1/sandboxes/guessed")).toMatchObject({
    requested_by: null,
    forwarded_for: "192.0.2.1",
    status: 401,
    code: "INVALID_TOKEN",
  });
  for (const hidden of [secret, lifecycle.secret, "hidden"])
    expect(JSON.stringify(all)).not.toContain(hidden);
  expect(await call("GET", "/v1/audit")).toMatchObject(missing("operator"));
});

test("lists come in pages", async () => {
  await Promise.all([makeKey(["read"]), makeKey(["read"]), makeKey(["read"])]);
  const all = (await fleet.call("GET", "/v1/keys?limit=1000")).body;
  expect(all).toMatchObject({ has_more: false, next_cursor: null });
  const ids: unknown[] = [];
  let cursor = "";
  do {
    const { body } = await fleet.call("GET", `/v1/keys?limit=2${cursor}`);
    ids.push(...(body["data"] as Body[]).map(({ id }) => id));
    cursor = body["has_more"] === true ? `&cursor=${String(body["next_cursor"])}` : "";
  } while (cursor !== "");
  expect(ids).toEqual((all["data"] as Body[]).map(({ id }) => id));
});

test("./torpor key and ./torpor org make, show, rotate and revoke", async () => {
  const env = { PATH: process.env["PATH"], HOPX_BASE_URL: fleet.url, HOPX_API_KEY: fleet.apiKey };
  const torpor = async (...args: string[]) =>
    await run(process.execPath, [join(ROOT, "packages/cli/src/main.ts"), ...args], { env }).then(
      ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
      (error: { code: number; stdout: string; stderr: string }) => error,
    );
  expect((await torpor("org", "create", "tools")).stdout).toMatch(
    /^ID +NAME +CREATED\n\d+ +tools /,
  );
  expect((await torpor("org")).stdout).toMatch(/local[^]*tools/);
  const created = await torpor(
    "key",
    "create",
    "ci",
    "--organization",
    "tools",
    "--scope",
    "read,lifecycle",
    "--expires",
    "30d",
  );
  expect(created, created.stderr).toMatchObject({ code: 0 });
  const secret = /^torpor_live_[0-9a-f]{48}$/m.exec(created.stdout)?.[0] ?? "";
  expect((await as(secret)("GET", "/v1/sandboxes")).status).toBe(200);
  const listed = await torpor("key", "ls", "--organization", "tools", "--json");
  const [key] = JSON.parse(listed.stdout) as Body[];
  expect(key).toMatchObject({ name: "ci", scopes: ["read", "lifecycle"], status: "active" });
  expect(listed.stdout).not.toContain(secret);
  const id = String(key?.["id"]);
  const rotated = await torpor("key", "rotate", id, "--overlap", "1h");
  expect(rotated.stdout).toMatch(new RegExp(`Key ${id} stays good until 20\\d\\d-`));
  expect((await torpor("key", "revoke", id)).stdout).toMatch(/revoked, now \d+/);
  const left = (await torpor("key", "ls", "--organization", "tools")).stdout.split("\n");
  expect(left.filter((line) => line.includes("ci"))).toHaveLength(1);
  const denied = await torpor("key", "create", "ci", "--scope", "root");
  expect(denied).toMatchObject({ code: 1, stderr: expect.stringMatching(/scopes.*operator/) });
});

describe("quotas of an organization", () => {
  test("are set by operators, told in headers and refusals, and free what they held", async () => {
    const { id } = await fleet.client.organizations.create("small");
    const path = `/v1/organizations/${id}/quotas`;
    const call = as((await makeKey(["read", "lifecycle"], { organization: "small" })).secret);
    const limits = { running_sandboxes: 1, sandboxes: 2 };
    expect(await fleet.client.organizations.setQuotas(id, limits)).toMatchObject({
      limits: { ...limits, vcpu: null },
      used: { sandboxes: 0, running_sandboxes: 0 },
    });
    for (const body of [{ vcpu: -1 }, { cpu: 1 }, { vcpu: 1.5 }])
      expect(await fleet.call("PUT", path, { body })).toMatchObject({
        status: 400,
        body: { code: "INVALID_REQUEST" },
      });
    expect(await call("PUT", path, {})).toMatchObject(missing("operator"));
    expect((await call("GET", "/v1/organizations/1/quotas")).status).toBe(404);
    expect((await fleet.call("GET", "/v1/organizations/999999/quotas")).status).toBe(404);

    const body = { template_name: "code-interpreter" };
    const first = await call("POST", "/v1/sandboxes", body);
    expect(first.status).toBe(201);
    expect(first.headers.get("ratelimit-policy")).toBe('"running_sandboxes";q=1, "sandboxes";q=2');
    expect(first.headers.get("ratelimit")).toBe('"running_sandboxes";r=0, "sandboxes";r=1');
    const details = { quota: "running_sandboxes", limit: 1, used: 1, needed: 1 };
    const refused = await call("POST", "/v1/sandboxes", body);
    expect(refused).toMatchObject({ status: 403, body: { code: "QUOTA_EXCEEDED", details } });
    expect(refused.headers.get("ratelimit")).toBe('"running_sandboxes";r=0, "sandboxes";r=1');

    expect((await call("POST", `${pathOf(first.body)}/pause`)).status).toBe(200);
    const second = await call("POST", "/v1/sandboxes", body);
    expect(second.status).toBe(201);
    expect(await call("POST", `${pathOf(first.body)}/resume`)).toMatchObject({
      status: 403,
      body: { code: "QUOTA_EXCEEDED", details },
    });
    expect((await call("DELETE", pathOf(second.body))).status).toBe(200);
    const resumed = await call("POST", `${pathOf(first.body)}/resume`);
    expect(resumed.status).toBe(200);
    expect(resumed.headers.get("ratelimit")).toBe('"running_sandboxes";r=0, "sandboxes";r=1');
    const used = { running_sandboxes: 1, sandboxes: 1, waiting_operations: 0 };
    expect(await call("GET", path)).toMatchObject({ status: 200, body: { used } });
    await call("DELETE", pathOf(first.body));
  });
});
