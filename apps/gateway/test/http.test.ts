/**
 * Refusals of the API that need no database: these requests are refused before the first query, or
 * by its failure.
 */
import type { Database } from "@torpor/db";
import type { FastifyInstance } from "fastify";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { appWith } from "./support/app.ts";

const KEY = "a-good-key";
const OWNER = {
  apiKeyId: 1,
  organizationId: 1,
  scopes: ["read", "lifecycle"],
  expiresAt: null,
  goodForMs: null,
};

/** Knows only the API key: any other query fails as it does while the database is away. */
function databaseAway(): Database {
  let asked = 0;
  const refused = Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" });
  const keyQuery = { from: () => ({ where: async () => [OWNER] }) };
  const select = () => {
    asked += 1;
    if (asked === 1) return keyQuery;
    throw refused;
  };
  return { select, transaction: () => Promise.reject(refused) } as unknown as Database;
}

let app: FastifyInstance;
beforeAll(async () => {
  app = appWith({ db: databaseAway() });
  await app.ready();
  // Caches the key while the database knows it.
  await app.inject({ method: "GET", url: "/v1/sandboxes/x", headers: { "x-api-key": KEY } });
});
afterAll(async () => {
  await app.close();
});

type Sent = {
  url: string;
  method?: "GET" | "POST" | "DELETE" | "PUT";
  body?: string;
  headers?: Record<string, string>;
};
async function send({ url, method = "GET", body, headers = {} }: Sent) {
  const type: Record<string, string> =
    body === undefined ? {} : { "content-type": "application/json" };
  const answer = await app.inject({
    method,
    url,
    headers: { "x-api-key": KEY, ...type, ...headers },
    ...(body === undefined ? {} : { body }),
  });
  return {
    status: answer.statusCode,
    headers: answer.headers,
    body: answer.json<Record<string, unknown>>(),
  };
}

describe("AP1: every refusal has the body that both SDKs read, and its request id in body and header", () => {
  test.each<[string, Sent, number, string]>([
    [
      "no key",
      { url: "/v1/sandboxes", headers: { "x-api-key": "" } },
      401,
      "AUTHENTICATION_REQUIRED",
    ],
    ["no such path", { url: "/v1/nothing" }, 404, "RESOURCE_NOT_FOUND"],
    ["no such path outside /v1", { url: "/nothing" }, 404, "RESOURCE_NOT_FOUND"],
    ["no sandbox id", { url: "/v1/sandboxes/nonsense" }, 404, "SANDBOX_NOT_FOUND"],
    ["no JSON", { url: "/v1/sandboxes", method: "POST", body: "{" }, 400, "INVALID_JSON"],
    [
      "no JSON type",
      {
        url: "/v1/sandboxes",
        method: "POST",
        body: "x",
        headers: { "content-type": "text/plain" },
      },
      415,
      "UNSUPPORTED_MEDIA_TYPE",
    ],
    [
      "too much",
      { url: "/v1/sandboxes", method: "POST", body: `"${"x".repeat(2 ** 20)}"` },
      413,
      "PAYLOAD_TOO_LARGE",
    ],
    [
      "a wrong field",
      { url: "/v1/sandboxes", method: "POST", body: '{"timeout_seconds":0}' },
      400,
      "INVALID_REQUEST",
    ],
    ["a wrong cursor", { url: "/v1/sandboxes?cursor=bm9uc2Vuc2U" }, 400, "INVALID_REQUEST"],
    ["a path that cannot be decoded", { url: "/v1/sandboxes/%ff" }, 400, "INVALID_REQUEST"],
    ["no database", { url: "/v1/sandboxes" }, 503, "SERVICE_UNAVAILABLE"],
  ])("%s", async (_, sent, status, code) => {
    const answer = await send({
      ...sent,
      headers: { "x-request-id": "req-from-client", ...sent.headers },
    });
    expect([answer.status, answer.body["code"]]).toEqual([status, code]);
    const { message, details } = answer.body;
    const shared = {
      code,
      message,
      request_id: "req-from-client",
      ...(details === undefined ? {} : { details }),
    };
    expect(answer.body).toEqual({ ...shared, error: shared });
    expect(String(message).length).toBeGreaterThan(10);
    expect(answer.headers["x-request-id"]).toBe("req-from-client");
    if (status === 503) expect(answer.headers["retry-after"]).toBe("1");
    // E2, E3: words that the SDKs take for something else.
    if (code !== "SANDBOX_NOT_FOUND") expect(String(message)).not.toMatch(/not found/i);
    expect(String(message)).not.toMatch(/limit|quota/i);
  });

  test("a request id that is not sane is replaced", async () => {
    const { headers } = await send({ url: "/nothing", headers: { "x-request-id": "a b" } });
    expect(headers["x-request-id"]).toMatch(/^req_[0-9a-f]{32}$/);
  });
});

describe("S52: what is wrong with a request is named by field", () => {
  const fieldsOf = async (body: unknown) => {
    const answer = await send({ url: "/v1/sandboxes", method: "POST", body: JSON.stringify(body) });
    return {
      code: answer.body["code"],
      fields: (answer.body["details"] as { fields: { field: string }[] }).fields.map(
        ({ field }) => field,
      ),
    };
  };
  test.each<[string, unknown, string[]]>([
    ["a number out of range", { timeout_seconds: 0 }, ["timeout_seconds"]],
    ["a negative number", { timeout_seconds: -10 }, ["timeout_seconds"]],
    ["a fraction", { timeout_seconds: 1.5 }, ["timeout_seconds"]],
    ["a number as text: a body is never converted", { timeout_seconds: "60" }, ["timeout_seconds"]],
    ["one inside another", { env_vars: { A: 1 } }, ["env_vars.A"]],
    [
      "one inside something that may be null",
      { placement: { labels: { zone: "a b" }, anti_affinity: "" } },
      ["placement.labels.zone", "placement.anti_affinity"],
    ],
    [
      "what may be null, and is of another type",
      { placement: 1, auto_pause: "x" },
      ["placement", "auto_pause"],
    ],
    ["a name that is not allowed", { env_vars: { "1A": "x" } }, ["env_vars.1A"]],
    [
      "variables that are too much together",
      { env_vars: { A: "x".repeat(100_000), B: "x".repeat(100_000), C: "x".repeat(100_000) } },
      ["env_vars"],
    ],
    [
      "one that no program could be given",
      { env_vars: { A: "x", B: "x".repeat(131_070) } },
      ["env_vars.B"],
    ],
    ["bytes count, not characters", { env_vars: { B: "é".repeat(70_000) } }, ["env_vars.B"]],
    ["a NUL in a variable", { env_vars: { B: "a\0b" } }, ["env_vars.B"]],
    ["several", { timeout_seconds: 0, region: "" }, ["timeout_seconds", "region"]],
    ["text that cannot be stored", { metadata: { note: "a\0b" } }, ["metadata.note"]],
    ["half a surrogate pair", { metadata: { note: "\ud800" } }, ["metadata.note"]],
    ["no object", [], ["body"]],
  ])("%s", async (_, body, fields) => {
    const seen = await fieldsOf(body);
    expect(seen.fields.toSorted()).toEqual(fields.toSorted());
    expect(seen.code).toBe("INVALID_REQUEST");
  });

  test("variables that the message servers would not take are refused before anything is written", async () => {
    const small = appWith({ db: databaseAway(), maxMessageBytes: () => 40_000 });
    const create = async (bytes: number) =>
      await small.inject({
        method: "POST",
        url: "/v1/sandboxes",
        headers: { "x-api-key": KEY },
        payload: { template_name: "x", env_vars: { A: "x".repeat(bytes) } },
      });
    // Caches the key.
    await small.inject({ method: "GET", url: "/v1/sandboxes/x", headers: { "x-api-key": KEY } });
    const refused = await create(20_000);
    expect([refused.statusCode, refused.json()]).toMatchObject([
      400,
      {
        code: "INVALID_REQUEST",
        details: {
          fields: [
            {
              field: "env_vars",
              message: expect.stringMatching(/at most 17712 bytes .* and is 20008/),
            },
          ],
        },
      },
    ]);
    // This request gets as far as the database, which is away.
    expect((await create(15_000)).statusCode).toBe(503);
    await small.close();
  });

  test("variables: what they may be is said, and 300 KiB of them are as clear as 30", async () => {
    const say = async (bytes: number) => {
      const names = Array.from({ length: bytes / 1024 }, (_, at) => [`N${at}`, "x".repeat(1024)]);
      const body = JSON.stringify({
        template_name: "code-interpreter",
        env_vars: Object.fromEntries(names),
      });
      const answer = await send({ url: "/v1/sandboxes", method: "POST", body });
      return [answer.status, answer.body["code"], answer.body["message"]];
    };
    expect(await say(300 * 1024)).toEqual([
      400,
      "INVALID_REQUEST",
      "env_vars must be at most 262144 bytes as JSON text, and is 310091",
    ]);
    // The request is valid; only the database is missing.
    expect(await say(200 * 1024)).toEqual([503, "SERVICE_UNAVAILABLE", expect.any(String)]);
  });

  test("a parameter that is missing has a code of its own", async () => {
    const answer = await send({
      url: "/v1/sandboxes/1763309903rt5vs4lm/timeout",
      method: "PUT",
      body: "{}",
    });
    expect([answer.status, answer.body["code"], answer.body["message"]]).toEqual([
      400,
      "MISSING_PARAMETER",
      "timeout_seconds is required",
    ]);
  });

  test("S8: in a body that comes in chunks, too", async () => {
    const url = `${await app.listen({ port: 0, host: "127.0.0.1" })}/v1/sandboxes`;
    const parts = ['{"template_name":"code-interpreter",', '"timeout_seconds":0}'];
    const body = ReadableStream.from(parts.map((part) => Buffer.from(part)));
    const headers = { "x-api-key": KEY, "content-type": "application/json" };
    const answer = await fetch(url, { method: "POST", headers, body, duplex: "half" });
    expect([answer.status, ((await answer.json()) as { message: string }).message]).toEqual([
      400,
      expect.stringContaining("timeout_seconds"),
    ]);
  });

  test.each(["limit=0", "limit=1001", "limit=x", "limit=1.5", "status=gone"])(
    "a query is converted, then judged: %s",
    async (query) => {
      const answer = await send({ url: `/v1/sandboxes?${query}` });
      expect([answer.status, answer.body["code"]]).toEqual([400, "INVALID_REQUEST"]);
      expect(String(answer.body["message"])).toContain(query.split("=")[0]);
    },
  );
});
