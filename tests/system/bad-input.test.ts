/** Bad input: a clear 4xx with the error body of the contract, and an unchanged database. */
import { startTestFleet, type ApiRequest, type TestFleet, until } from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
let sql: postgres.Sql;
let sandboxId: string;
beforeAll(async () => {
  fleet = await startTestFleet({ hosts: 1, schedulers: 1 });
  sql = postgres(fleet.fleet.state.databaseUrl, { max: 2, onnotice: () => {} });
  sandboxId = (await fleet.createSandbox()).id;
  await fleet.client.sandboxes.stop(sandboxId);
  await until(
    "everything is published",
    async () => (await sql`select 1 from outbox where published_at is null`).length === 0,
  );
});
afterAll(async () => {
  await sql.end();
  await fleet[Symbol.asyncDispose]();
});

const TABLES = [
  "sandboxes",
  "operations",
  "sandbox_events",
  "incarnations",
  "snapshots",
  "outbox",
  "organizations",
  "api_keys",
  "host_events",
  "drains",
  "drain_sandboxes",
];

/**
 * Digest of every table that requests write to, without the time of an API key's last use, which
 * any request may update.
 */
async function contents(): Promise<Record<string, string>> {
  const digests: Record<string, string> = {};
  for (const table of TABLES) {
    const [row] = await sql.unsafe(
      `select coalesce(md5(string_agg(line, '|' order by line)), '') as digest from (select (to_jsonb(t) - 'last_used_at')::text as line from ${table} t) lines`,
    );
    digests[table] = String(row?.["digest"]);
  }
  return digests;
}

interface Case {
  what: string;
  method: string;
  path: (id: string) => string;
  request?: ApiRequest;
  status: number;
  code: string;
  /** Pattern that the error message must match. */
  says: RegExp;
}

const sandboxes = () => "/v1/sandboxes";
const drain = () => "/v1/hosts/host-1/drain";
const body = (extra: object) => ({ body: { template_name: "code-interpreter", ...extra } });
const keys = () => "/v1/keys";
const key = (extra: object) => ({ body: { name: "mine", scopes: ["read"], ...extra } });
const invalid = { status: 400, code: "INVALID_REQUEST" };
const KEY_CASES: Case[] = [
  {
    what: "a key without a name",
    method: "POST",
    path: keys,
    request: { body: { scopes: ["read"] } },
    ...invalid,
    code: "MISSING_PARAMETER",
    says: /name/,
  },
  {
    what: "a key without scopes",
    method: "POST",
    path: keys,
    request: key({ scopes: [] }),
    ...invalid,
    says: /scopes/,
  },
  {
    what: "a key with a scope that is none",
    method: "POST",
    path: keys,
    request: key({ scopes: ["root"] }),
    ...invalid,
    says: /scopes.*operator/,
  },
  {
    what: "a key with a scope twice",
    method: "POST",
    path: keys,
    request: key({ scopes: ["read", "read"] }),
    ...invalid,
    says: /scopes/,
  },
  {
    what: "a key whose name would not print",
    method: "POST",
    path: keys,
    request: key({ name: "a\u001b[2J" }),
    ...invalid,
    says: /name/,
  },
  {
    what: "a key with a long name",
    method: "POST",
    path: keys,
    request: key({ name: "x".repeat(65) }),
    ...invalid,
    says: /name/,
  },
  {
    what: "a key with an unknown field",
    method: "POST",
    path: keys,
    request: key({ expires: 60 }),
    ...invalid,
    says: /expires is not an allowed name/,
  },
  {
    what: "a key that has expired already",
    method: "POST",
    path: keys,
    request: key({ expires_at: "2020-01-01T00:00:00Z" }),
    ...invalid,
    says: /expires_at.*future/,
  },
  {
    what: "a key that expires at no time",
    method: "POST",
    path: keys,
    request: key({ expires_at: "tomorrow" }),
    ...invalid,
    says: /expires_at/,
  },
  {
    what: "a key of an unknown form",
    method: "POST",
    path: keys,
    request: key({ form: "aws" }),
    ...invalid,
    says: /form.*e2b/,
  },
  {
    what: "a key of an unknown organization",
    method: "POST",
    path: keys,
    request: key({ organization: "nobody" }),
    status: 404,
    code: "RESOURCE_NOT_FOUND",
    says: /nobody/,
  },
  {
    what: "keys of an unknown organization",
    method: "GET",
    path: () => "/v1/keys?organization=nobody",
    status: 404,
    code: "RESOURCE_NOT_FOUND",
    says: /nobody/,
  },
  {
    what: "keys of an unknown status",
    method: "GET",
    path: () => "/v1/keys?status=lost",
    ...invalid,
    says: /status/,
  },
  {
    what: "keys from nowhere",
    method: "GET",
    path: () => "/v1/keys?cursor=bm9uc2Vuc2U",
    ...invalid,
    says: /cursor/,
  },
  {
    what: "revoking a key that is none",
    method: "DELETE",
    path: () => "/v1/keys/99999999999",
    status: 404,
    code: "RESOURCE_NOT_FOUND",
    says: /key/,
  },
  {
    what: "rotating an unknown key",
    method: "POST",
    path: () => "/v1/keys/2147483647/rotate",
    status: 404,
    code: "RESOURCE_NOT_FOUND",
    says: /key/,
  },
  {
    what: "rotating with too long an overlap",
    method: "POST",
    path: () => "/v1/keys/1/rotate",
    request: { body: { overlap_seconds: 86_401 } },
    ...invalid,
    says: /overlap_seconds/,
  },
  {
    what: "rotating with an unknown field",
    method: "POST",
    path: () => "/v1/keys/1/rotate",
    request: { body: { overlap: 60 } },
    ...invalid,
    says: /overlap is not an allowed name/,
  },
  {
    what: "the last operator's key revoked",
    method: "DELETE",
    path: () => "/v1/keys/1",
    status: 409,
    code: "CONFLICT",
    says: /last key/,
  },
  {
    what: "an organization without a name",
    method: "POST",
    path: () => "/v1/organizations",
    request: { body: {} },
    status: 400,
    code: "MISSING_PARAMETER",
    says: /name/,
  },
  {
    what: "an organization that is there",
    method: "POST",
    path: () => "/v1/organizations",
    request: { body: { name: "local" } },
    status: 409,
    code: "CONFLICT",
    says: /local/,
  },
];

const CASES: Case[] = [
  {
    what: "unknown template",
    method: "POST",
    path: sandboxes,
    request: { body: { template_name: "nope" } },
    status: 404,
    code: "TEMPLATE_NOT_FOUND",
    says: /nope.*code-interpreter/,
  },
  {
    what: "deleting a template that is not there",
    method: "DELETE",
    path: () => "/v1/templates/nope",
    request: {},
    status: 404,
    code: "TEMPLATE_NOT_FOUND",
    says: /nope.*code-interpreter/,
  },
  {
    what: "a template of an image that is none",
    method: "POST",
    path: () => "/v1/templates",
    request: {
      body: {
        name: "mine",
        image_sha256: "latest",
        default_resources: { vcpu: 1, memory_mb: 64, disk_mb: 16 },
      },
    },
    status: 400,
    code: "INVALID_REQUEST",
    says: /image_sha256/,
  },
  {
    what: "a template of nothing",
    method: "POST",
    path: () => "/v1/templates",
    request: {
      body: {
        name: "mine",
        image_sha256: "a".repeat(64),
        default_resources: { vcpu: 0, memory_mb: 64, disk_mb: 16 },
      },
    },
    status: 400,
    code: "INVALID_REQUEST",
    says: /default_resources.vcpu/,
  },
  {
    what: "no change of a template",
    method: "PATCH",
    path: () => "/v1/templates/code-interpreter",
    request: { body: {} },
    status: 400,
    code: "INVALID_REQUEST",
    says: /./,
  },
  {
    what: "building a template",
    method: "POST",
    path: () => "/v1/templates/build",
    request: { body: { name: "mine", from_image: "python:3.11", steps: [] } },
    status: 403,
    code: "FORBIDDEN",
    says: /hosts/,
  },
  {
    what: "no template",
    method: "POST",
    path: sandboxes,
    request: { body: {} },
    status: 400,
    code: "MISSING_PARAMETER",
    says: /template_name/,
  },
  {
    what: "malformed JSON",
    method: "POST",
    path: sandboxes,
    request: { rawBody: "{" },
    status: 400,
    code: "INVALID_JSON",
    says: /JSON/,
  },
  {
    what: "a body that is no object",
    method: "POST",
    path: sandboxes,
    request: { rawBody: "[1]" },
    status: 400,
    code: "INVALID_REQUEST",
    says: /object/,
  },
  {
    what: "a wrong type",
    method: "POST",
    path: sandboxes,
    request: body({ internet_access: "yes" }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /internet_access/,
  },
  {
    what: "S52: a negative timeout",
    method: "POST",
    path: sandboxes,
    request: body({ timeout_seconds: -1 }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /timeout_seconds/,
  },
  {
    what: "a huge timeout",
    method: "POST",
    path: sandboxes,
    request: body({ timeout_seconds: 1e12 }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /timeout_seconds/,
  },
  {
    what: "a fractional timeout",
    method: "POST",
    path: sandboxes,
    request: body({ timeout_seconds: 1.5 }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /timeout_seconds/,
  },
  {
    what: "a bad variable name",
    method: "POST",
    path: sandboxes,
    request: body({ env_vars: { "a b": "c" } }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /env_vars/,
  },
  {
    what: "a NUL in metadata",
    method: "POST",
    path: sandboxes,
    request: body({ metadata: { a: "b\0c" } }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /metadata/,
  },
  {
    what: "an unknown region",
    method: "POST",
    path: sandboxes,
    request: body({ region: "moon" }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /region.*local/,
  },
  {
    what: "a malformed Idempotency-Key",
    method: "POST",
    path: sandboxes,
    request: { ...body({}), headers: { "idempotency-key": "a b" } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /Idempotency-Key/,
  },
  {
    what: "a body over the limit",
    method: "POST",
    path: sandboxes,
    request: { rawBody: `{"template_name":"${"x".repeat(1_100_000)}"}` },
    status: 413,
    code: "PAYLOAD_TOO_LARGE",
    says: /large/,
  },
  {
    what: "no key",
    method: "POST",
    path: sandboxes,
    request: { ...body({}), apiKey: null },
    status: 401,
    code: "AUTHENTICATION_REQUIRED",
    says: /X-API-Key/,
  },
  {
    what: "a wrong key",
    method: "POST",
    path: sandboxes,
    request: { ...body({}), apiKey: "torpor_wrong" },
    status: 401,
    code: "INVALID_TOKEN",
    says: /key/,
  },
  {
    what: "an unknown sandbox",
    method: "GET",
    path: () => "/v1/sandboxes/1795490791hbb922t4",
    status: 404,
    code: "SANDBOX_NOT_FOUND",
    says: /not found/,
  },
  {
    what: "an impossible sandbox id",
    method: "POST",
    path: () => "/v1/sandboxes/..%2F..%2Fetc/pause",
    status: 404,
    code: "SANDBOX_NOT_FOUND",
    says: /not found/,
  },
  {
    what: "a transition that the table refuses",
    method: "POST",
    path: (id) => `/v1/sandboxes/${id}/pause`,
    status: 409,
    code: "CONFLICT",
    says: /stopped/,
  },
  {
    what: "a zero timeout",
    method: "PUT",
    path: (id) => `/v1/sandboxes/${id}/timeout`,
    request: { body: { timeout_seconds: 0 } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /timeout_seconds/,
  },
  {
    what: "S52: an idle time of 0",
    method: "POST",
    path: sandboxes,
    request: body({ auto_pause: { idle_seconds: 0 } }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /auto_pause\.idle_seconds/,
  },
  {
    what: "an idle time without its name",
    method: "POST",
    path: sandboxes,
    request: body({ auto_pause: 60 }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /auto_pause/,
  },
  {
    what: "auto_resume that is no truth value",
    method: "POST",
    path: sandboxes,
    request: body({ auto_resume: "yes" }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /auto_resume/,
  },
  {
    what: "a preview access that is none",
    method: "PATCH",
    path: (id) => `/v1/sandboxes/${id}`,
    request: { body: { preview_access: "private" } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /preview_access.*public/,
  },
  {
    what: "a preview host that is none",
    method: "POST",
    path: sandboxes,
    request: body({ preview_host: "127.0.0.1" }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /preview_host.*localhost/,
  },
  {
    what: "a link that leads to another host",
    method: "POST",
    path: (id) => `/v1/sandboxes/${id}/preview-links`,
    request: { body: { port: 3000, path: "https://evil.example" } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /^path/,
  },
  {
    what: "a link that lasts for ever",
    method: "POST",
    path: (id) => `/v1/sandboxes/${id}/preview-links`,
    request: { body: { port: 3000, expires_in_seconds: 86_400 } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /expires_in_seconds/,
  },
  {
    what: "a policy for the loss of its host that is none",
    method: "POST",
    path: sandboxes,
    request: body({ on_host_loss: "move" }),
    status: 400,
    code: "INVALID_REQUEST",
    says: /on_host_loss.*wait/,
  },
  {
    what: "no policy for the loss of its host",
    method: "PATCH",
    path: (id) => `/v1/sandboxes/${id}`,
    request: { body: { on_host_loss: null } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /on_host_loss/,
  },
  {
    what: "a fractional idle time",
    method: "PATCH",
    path: (id) => `/v1/sandboxes/${id}`,
    request: { body: { auto_pause: { idle_seconds: 1.5 } } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /auto_pause\.idle_seconds/,
  },
  {
    what: "metadata that is no text",
    method: "PATCH",
    path: (id) => `/v1/sandboxes/${id}`,
    request: { body: { metadata: { a: 1 } } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /metadata\.a/,
  },
  {
    what: "more metadata than fits",
    method: "PATCH",
    path: (id) => `/v1/sandboxes/${id}`,
    request: {
      body: {
        metadata: Object.fromEntries(Array.from({ length: 65 }, (_, at) => [`n${at}`, "x"])),
      },
    },
    status: 400,
    code: "INVALID_REQUEST",
    says: /metadata/,
  },
  {
    what: "a change of nothing",
    method: "PATCH",
    path: (id) => `/v1/sandboxes/${id}`,
    request: { body: { name: "x" } },
    status: 400,
    code: "MISSING_PARAMETER",
    says: /auto_pause/,
  },
  {
    what: "an unknown operation",
    method: "GET",
    path: () => "/v1/operations/op_1",
    status: 404,
    code: "RESOURCE_NOT_FOUND",
    says: /op_1/,
  },
  {
    what: "a bad limit",
    method: "GET",
    path: () => "/v1/sandboxes?limit=-1",
    status: 400,
    code: "INVALID_REQUEST",
    says: /limit/,
  },
  {
    what: "an unknown status filter",
    method: "GET",
    path: () => "/v1/sandboxes?status=flying",
    status: 400,
    code: "INVALID_REQUEST",
    says: /status/,
  },
  {
    what: "a host that there is not",
    method: "POST",
    path: () => "/v1/hosts/host-9/drain",
    request: { body: { max_parallel: 1 } },
    status: 404,
    code: "RESOURCE_NOT_FOUND",
    says: /host-9.*GET \/v1\/hosts/,
  },
  {
    what: "a drain of nothing at once",
    method: "POST",
    path: drain,
    request: { body: { max_parallel: 0 } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /max_parallel/,
  },
  {
    what: "a drain without a budget",
    method: "POST",
    path: drain,
    request: { body: {} },
    status: 400,
    code: "MISSING_PARAMETER",
    says: /max_parallel/,
  },
  {
    what: "a drain that is to end in the past",
    method: "POST",
    path: drain,
    request: { body: { max_parallel: 1, deadline: "2020-01-01T00:00:00Z" } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /deadline.*future/,
  },
  {
    what: "a drain with a word for a deadline",
    method: "POST",
    path: drain,
    request: { body: { max_parallel: 1, deadline: "tomorrow" } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /deadline/,
  },
  {
    what: "a drain with a misspelled budget",
    method: "POST",
    path: drain,
    request: { body: { max_parallel: 1, max_mb_per_second: 5 } },
    status: 400,
    code: "INVALID_REQUEST",
    says: /max_mb_per_second/,
  },
  {
    what: "draining the last host",
    method: "POST",
    path: drain,
    request: { body: { max_parallel: 1 } },
    status: 409,
    code: "CONFLICT",
    says: /nowhere to go/,
  },
  {
    what: "aborting a drain that there is not",
    method: "POST",
    path: () => `${drain()}/abort`,
    status: 409,
    code: "CONFLICT",
    says: /not being drained/,
  },
  {
    what: "retiring a host with sandboxes",
    method: "POST",
    path: () => "/v1/hosts/host-1/retire",
    status: 409,
    code: "CONFLICT",
    says: /1 sandbox\. Drain the host first/,
  },
  {
    what: "discarding what is no finding",
    method: "POST",
    path: (id) => `/v1/hosts/host-1/findings/${id}/discard`,
    status: 404,
    code: "RESOURCE_NOT_FOUND",
    says: /GET \/v1\/hosts\/host-1/,
  },
  {
    what: "a host's history from nowhere",
    method: "GET",
    path: () => "/v1/hosts/host-1/events?after=x",
    status: 400,
    code: "INVALID_REQUEST",
    says: /after/,
  },
  ...KEY_CASES,
  {
    what: "an unknown path",
    method: "GET",
    path: () => "/v1/nothing",
    status: 404,
    code: "RESOURCE_NOT_FOUND",
    says: /nothing/,
  },
];

describe("CS2: bad input changes nothing", () => {
  test.each(CASES)(
    "$what: $status $code",
    async ({ method, path, request, status, code, says }) => {
      const before = await contents();
      const answer = await fleet.call(method, path(sandboxId), request);
      expect(answer.status, JSON.stringify(answer.body)).toBe(status);
      const requestId = answer.headers.get("x-request-id");
      expect(requestId).toMatch(/^req_/);
      expect(answer.body).toMatchObject({
        code,
        request_id: requestId,
        error: { code, request_id: requestId },
      });
      expect(String(answer.body["message"])).toMatch(says);
      expect(await contents()).toEqual(before);
    },
  );
});
