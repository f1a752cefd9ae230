/**
 * Every route below /v1 declares which scope of an API key it needs, and a key without it is
 * refused.
 */
import { type Scope, SCOPES } from "@torpor/contracts";
import type { Database } from "@torpor/db";
import Fastify, { type RouteOptions } from "fastify";
import { describe, expect, test } from "vitest";
import type { ApiKeys } from "../src/auth/auth.ts";
import { admit, type RouteDependencies } from "../src/edge/route.ts";
import { assertScope, findMissingScope, needs, requireDeclaredScope } from "../src/auth/scopes.ts";
import { createProxies } from "../src/http/proxies.ts";
import { UnderWay } from "../src/operations/under-way.ts";
import { appWith } from "./support/app.ts";

/** All routes: a new one, or one that needs another scope, changes this table on purpose. */
const NEEDED: Record<string, Scope[]> = {
  "GET /v1/sandboxes": ["read"],
  "GET /v1/sandboxes/:id": ["read"],
  "GET /v1/sandboxes/:id/events": ["read"],
  "GET /v1/operations/:id": ["read"],
  "GET /v1/templates": ["read"],
  "GET /v1/templates/:id": ["read"],
  "POST /v1/templates": ["operator"],
  "PATCH /v1/templates/:id": ["operator"],
  "DELETE /v1/templates/:id": ["operator"],
  "POST /v1/templates/build": ["read"],
  "POST /v1/templates/files/upload-link": ["read"],
  "POST /v1/sandboxes": ["lifecycle"],
  "PATCH /v1/sandboxes/:id": ["lifecycle"],
  "DELETE /v1/sandboxes/:id": ["lifecycle"],
  "PUT /v1/sandboxes/:id/timeout": ["lifecycle"],
  "POST /v1/sandboxes/:id/pause": ["lifecycle"],
  "POST /v1/sandboxes/:id/resume": ["lifecycle"],
  "POST /v1/sandboxes/:id/stop": ["lifecycle"],
  "POST /v1/sandboxes/:id/start": ["lifecycle"],
  "POST /v1/placements/dry-run": ["lifecycle"],
  "POST /v1/sandboxes/:id/token/refresh": ["exec"],
  "POST /v1/sandboxes/:id/preview-links": ["exec"],
  "POST /v1/sandboxes/:id/token/revoke": ["lifecycle", "exec"],
  "GET /v1/hosts": ["operator"],
  "GET /v1/hosts/:id": ["operator"],
  "GET /v1/hosts/:id/events": ["operator"],
  "GET /v1/hosts/:id/findings": ["operator"],
  "POST /v1/hosts/:id/cordon": ["operator"],
  "POST /v1/hosts/:id/uncordon": ["operator"],
  "POST /v1/hosts/:id/retire": ["operator"],
  "POST /v1/hosts/:id/drain": ["operator"],
  "POST /v1/hosts/:id/drain/abort": ["operator"],
  "POST /v1/hosts/:id/findings/:sandbox/discard": ["operator"],
  "POST /v1/host-tokens": ["operator"],
  "GET /v1/host-tokens": ["operator"],
  "DELETE /v1/host-tokens/:id": ["operator"],
  "GET /v1/host-admissions": ["operator"],
  "DELETE /v1/host-admissions/:id": ["operator"],
  "GET /v1/keys": ["read", "operator"],
  "POST /v1/keys": ["lifecycle", "operator"],
  "DELETE /v1/keys/:id": ["lifecycle", "operator"],
  "POST /v1/keys/:id/rotate": ["lifecycle", "operator"],
  "GET /v1/audit": ["operator"],
  "GET /v1/organizations": ["operator"],
  "POST /v1/organizations": ["operator"],
  "GET /v1/organizations/:id/quotas": ["read", "operator"],
  "PUT /v1/organizations/:id/quotas": ["operator"],
};
/** The last one takes a token of its own, which lets a host join once. */
const OPEN = ["GET /health", "GET /openapi.json", "POST /v1/host-admissions"];

/** A database that returns one key with these scopes, whatever the key is, and fails otherwise. */
function knows(scopes: Scope[]): Database {
  const owner = { apiKeyId: 7, organizationId: 1, scopes, expiresAt: null, goodForMs: null };
  let asked = 0;
  const select = () => {
    asked += 1;
    if (asked > 1) throw new Error("the request went on to the database");
    return { from: () => ({ where: async () => [owner] }) };
  };
  return { select } as unknown as Database;
}

test("AP2: every route declares the scope of the table, for HEAD as for GET; /health and the description are open", async () => {
  await using app = appWith({ db: knows([]) });
  const routes: RouteOptions[] = [];
  app.addHook("onRoute", (route) => void routes.push(route));
  await app.ready();
  const declared = routes.flatMap(({ method, url, config }) =>
    [method].flat().map((one) => [`${one} ${url}`, config?.scopes] as const),
  );
  const isOpen = ([route]: readonly [string, unknown]) =>
    [...OPEN, ...OPEN.map((open) => open.replace("GET", "HEAD"))].includes(route);
  // Fastify adds a HEAD route for each GET.
  const heads = Object.entries(NEEDED).flatMap(([route, scopes]) =>
    route.startsWith("GET ") ? [[route.replace("GET", "HEAD"), scopes] as const] : [],
  );
  expect(Object.fromEntries(declared.filter((one) => !isOpen(one)))).toEqual({
    ...NEEDED,
    ...Object.fromEntries(heads),
  });
  expect(declared.filter(isOpen).every(([, scopes]) => scopes === undefined)).toBe(true);
});

test("SC1: a route that declares no scope cannot be registered", async () => {
  const register = async (config: object) => {
    const app = Fastify();
    void app.register(async (v1) => {
      v1.addHook("onRoute", requireDeclaredScope);
      v1.get("/things", { config }, async () => "all of them");
    });
    await app.ready();
    await app.close();
  };
  await expect(register({})).rejects.toThrow(/GET \/things declares no scope/);
  await expect(register(needs("read"))).resolves.toBeUndefined();
});

describe("a key without the scope", () => {
  const methodOf = (route: string) => route.split(" ")[0] as "GET";
  const urlOf = (route: string) => (route.split(" ")[1] ?? "").replace(/:\w+/g, "1");

  test.each(Object.entries(NEEDED))(
    "%s: 403 before anything is asked, and it counts",
    async (route, needed) => {
      const others = SCOPES.filter((scope) => !needed.includes(scope));
      const taken: string[] = [];
      const limiter = {
        take: async (budget: string) => {
          taken.push(budget);
          return { "x-ratelimit-remaining": "1" };
        },
      };
      await using app = appWith({ db: knows(others), limiter });
      const answer = await app.inject({
        method: methodOf(route),
        url: urlOf(route),
        headers: { "x-api-key": "key" },
      });
      expect(answer.statusCode).toBe(403);
      const body = answer.json<Record<string, unknown>>();
      const details = { missing_scope: needed[0], scopes: others };
      expect(body).toMatchObject({ code: "SCOPE_MISSING", details, error: { details } });
      expect(body["message"]).toContain(`'${needed[0]}'`);
      // Words that the SDKs take for something else (errors.ts, E2 and E3).
      expect(body["message"]).not.toMatch(/not found|limit|quota/i);
      expect(taken).toEqual(["api-key 7"]);
      expect(answer.headers["x-ratelimit-remaining"]).toBe("1");
    },
  );

  test("learns of a path that is none that it is none, whatever its scopes", async () => {
    await using app = appWith({ db: knows([]) });
    const headers = { "x-api-key": "key" };
    expect((await app.inject({ url: "/v1/nothing", headers })).statusCode).toBe(404);
  });
});

test("SC2: a scope implies no other, and of several that are enough any one is", () => {
  for (const scope of SCOPES) {
    for (const owned of SCOPES)
      expect(findMissingScope([scope], [owned])).toBe(owned === scope ? undefined : scope);
    expect(findMissingScope([scope], SCOPES)).toBeUndefined();
    expect(findMissingScope([scope], [])).toBe(scope);
  }
  expect(findMissingScope(["lifecycle", "operator"], ["operator"])).toBeUndefined();
  expect(findMissingScope(["lifecycle", "operator"], ["read", "exec"])).toBe("lifecycle");
  expect(() => assertScope(undefined, SCOPES), "nothing declared").toThrow(/declares no scope/);
});

describe("at the edge", () => {
  const sandbox = { id: "1763309903rt5vs4lm", organizationId: 1, previewAccess: "token" };
  const pass = async (port: number, owner: object | undefined, taken: string[] = []) => {
    const deps = {
      tokens: { grantOf: async () => undefined },
      apiKeys: { find: async () => owner } as unknown as ApiKeys,
      limiter: { take: async (budget: string) => (taken.push(budget), {}) },
      audit: { note: async () => {} },
      proxies: createProxies(""),
      underWay: new UnderWay(0),
      connections: { know: () => {} },
      streams: { watch: () => {} },
    } as unknown as RouteDependencies;
    const found = async () => ({ sandbox }) as never;
    const endpoint = { name: "sandbox", port, scheme: "http" as const, find: found };
    const headers = { "x-api-key": "key" };
    const incoming = { method: "POST", url: "/execute", headers, socket: {} };
    return await admit(deps, {
      endpoint,
      incoming: incoming as never,
      answer: {} as never,
      requestId: "req",
    });
  };
  const owner = (scopes: Scope[], organizationId = 1) => ({ apiKeyId: 7, organizationId, scopes });

  test.each([7777, 3000])(
    "port %d takes an API key with exec, and counts one without",
    async (port) => {
      await expect(pass(port, owner(["exec"]))).resolves.toMatchObject({
        passesCredentials: false,
      });
      const taken: string[] = [];
      const refused = pass(port, owner(["read", "lifecycle", "operator"]), taken);
      await expect(refused).rejects.toMatchObject({ status: 403, code: "SCOPE_MISSING" });
      expect(taken).toEqual(["api-key 7"]);
    },
  );

  test("a key of another organization is told nothing of scopes", async () => {
    await expect(pass(7777, owner(["read"], 2))).rejects.toMatchObject({ status: 401 });
    await expect(pass(7777, undefined)).rejects.toMatchObject({ status: 401 });
  });
});
