/**
 * Rate limits: budgets per API key and per sandbox, reported in headers, and a 429 that both SDKs
 * understand.
 */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { RateLimitError, Sandbox } from "@hopx-ai/sdk";
import { type SandboxResource, startTestFleet, type TestFleet, until } from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, expect, test } from "vitest";

const PER_MINUTE = 15;
const CONNECTIONS = 20;
const AT_ONCE = 3;
const GUESSES = 4;
let fleet: TestFleet;
let sandbox: SandboxResource;
beforeAll(async () => {
  fleet = await startTestFleet({
    hosts: 1,
    schedulers: 1,
    gatewayEnv: {
      RATE_LIMIT_PER_MINUTE: String(PER_MINUTE),
      EDGE_RATE_LIMIT_PER_MINUTE: String(PER_MINUTE),
      CONNECTIONS_PER_ADDRESS: String(CONNECTIONS),
      REQUESTS_AT_ONCE_PER_KEY: String(AT_ONCE),
      GUESSES_PER_MINUTE: String(GUESSES),
    },
  });
  const creator = fleet.clientOf(await anotherKey("creator"));
  sandbox = await creator.sandboxes.create({ template_name: "code-interpreter" });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

async function anotherKey(name: string): Promise<string> {
  const sql = postgres(fleet.fleet.state.databaseUrl, { max: 1 });
  const digest = createHash("sha256").update(name).digest("hex");
  await sql`insert into api_keys (organization_id, name, key_sha256) select id, ${name}, ${digest} from organizations limit 1`;
  await sql.end();
  return name;
}

/**
 * Sends requests until one is refused. The budget is so small that the end of a minute comes at
 * most once in between.
 */
async function exhaust(
  call: () => Promise<{ status: number; body: Record<string, unknown>; headers: Headers }>,
) {
  for (let at = 0; at < 3 * PER_MINUTE; at += 1) {
    const answer = await call();
    if (answer.status === 429) return answer;
  }
  throw new Error("no request was refused");
}

test("every answer below /v1 says what is left, errors and unknown paths included; a health check does not", async () => {
  const apiKey = await anotherKey("reader");
  const answers = [
    await fleet.call("GET", "/v1/sandboxes", { apiKey }),
    await fleet.call("GET", "/v1/sandboxes/nobody", { apiKey }),
    await fleet.call("GET", "/v1/nothing", { apiKey }),
    await fleet.call("GET", "/v1/sandboxes", { apiKey: "guess" }),
  ];
  expect(answers.map(({ status }) => status)).toEqual([200, 404, 404, 401]);
  for (const { headers } of answers) {
    expect(headers.get("x-ratelimit-limit")).toBe(String(PER_MINUTE));
    expect(Number(headers.get("x-ratelimit-remaining"))).toBeLessThan(PER_MINUTE);
    expect(Number(headers.get("x-ratelimit-reset"))).toBeGreaterThan(Date.now() / 1000 - 5);
  }
  expect((await fleet.call("GET", "/health")).headers.get("x-ratelimit-limit")).toBeNull();
});

test("over the budget: 429 with Retry-After, for this key alone; the JS SDK throws its RateLimitError", async () => {
  const refused = await exhaust(() => fleet.call("GET", "/v1/templates"));
  expect(refused.body).toMatchObject({
    code: "RATE_LIMIT_EXCEEDED",
    error: { code: "RATE_LIMIT_EXCEEDED" },
  });
  const seconds = Number(refused.headers.get("retry-after"));
  expect(seconds).toBeGreaterThanOrEqual(1);
  expect(refused.body["details"]).toEqual({ retry_after_seconds: seconds });
  expect(refused.headers.get("x-ratelimit-remaining")).toBe("0");
  // ComputeSDK would read these words as an exhausted quota.
  expect(String(refused.body["message"])).not.toMatch(/limit|quota/i);
  const sdk = await Sandbox.list({ apiKey: fleet.apiKey, baseURL: fleet.url }).catch(
    (error: unknown) => error,
  );
  expect(sdk).toBeInstanceOf(RateLimitError);
  expect(
    (await fleet.call("GET", "/v1/templates", { apiKey: await anotherKey("somebody else") }))
      .status,
  ).toBe(200);
});

test("connections that say nothing are closed for newer ones of their address, at the API and at the edge", async () => {
  const apiKey = await anotherKey("among many");
  for (const url of [fleet.url, sandbox.public_host]) {
    const { hostname, port } = new URL(url);
    const idle = Array.from({ length: 3 * CONNECTIONS }, () =>
      connect(Number(port), hostname).on("error", () => {}),
    );
    try {
      const closed = () => idle.filter(({ destroyed }) => destroyed).length;
      await until("those over the limit are closed", async () => closed() >= 2 * CONNECTIONS);
      for (const socket of idle) socket.resume();
      expect((await fleet.call("GET", "/v1/templates", { apiKey })).status).toBe(200);
      expect((await fetch(`${sandbox.public_host}/health`)).status).toBe(200);
      expect(closed()).toBeLessThanOrEqual(2 * CONNECTIONS + 2);
    } finally {
      for (const socket of idle) socket.destroy();
    }
  }
});

test("as many requests of a key are under way as may be; another key's are answered meanwhile", async () => {
  const [apiKey, other] = [await anotherKey("many at once"), await anotherKey("one at a time")];
  const { hostname, port } = new URL(fleet.url);
  const head = `POST /v1/sandboxes HTTP/1.1\r\nhost: h\r\nx-api-key: ${apiKey}\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n`;
  const slow = Array.from({ length: AT_ONCE + 1 }, () =>
    connect(Number(port), hostname).on("error", () => {}),
  );
  const answered = Promise.race(slow.map((socket) => once(socket, "data") as Promise<[Buffer]>));
  for (const socket of slow) socket.write(head);
  // One of the requests is over the limit.
  expect((await answered).toString()).toMatch(/^HTTP\/1.1 429 /);
  const list = (key: string) => fleet.call("GET", "/v1/templates", { apiKey: key });
  const refused = await list(apiKey);
  expect(refused).toMatchObject({
    status: 429,
    body: { code: "RATE_LIMIT_EXCEEDED", message: expect.stringMatching(/under way already/) },
  });
  expect(refused.headers.get("retry-after")).toBe("1");
  expect((await list(other)).status).toBe(200);
  for (const socket of slow) socket.destroy();
});

test("wrong keys are counted by their address: after a few the database is not asked, and a key that was good goes on", async () => {
  const good = await anotherKey("good before");
  expect((await fleet.call("GET", "/v1/templates", { apiKey: good })).status).toBe(200);
  const refused = await exhaust(() => fleet.call("GET", "/v1/templates", { apiKey: "a guess" }));
  expect(refused.body).toMatchObject({
    code: "RATE_LIMIT_EXCEEDED",
    message: expect.stringMatching(/wrong API keys/),
  });
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
  expect((await fleet.call("GET", "/v1/templates", { apiKey: good })).status).toBe(200);
});

test("the edge counts by sandbox: answers of its agent say what is left, and over it is a 429 before the sandbox hears of it", async () => {
  const first = await fleet.guest(sandbox, "/execute", { code: "x = 1" });
  expect(first.status).toBe(200);
  expect(first.headers.get("x-ratelimit-limit")).toBe(String(PER_MINUTE));
  const refused = await exhaust(() => fleet.guest(sandbox, "/execute", { code: "x = 2" }));
  expect(refused.body).toMatchObject({ code: "RATE_LIMIT_EXCEEDED", error: expect.any(String) });
  expect(refused.headers.get("retry-after")).toBe(
    String((refused.body["details"] as { retry_after_seconds: number }).retry_after_seconds),
  );
});
