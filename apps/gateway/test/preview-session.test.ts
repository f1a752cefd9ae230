/**
 * Access of a browser where `preview_access` is `token`: links, their cookies, and sub-protocols.
 */
import { unverifiedSandboxId } from "@torpor/contracts";
import { describe, expect, onTestFinished, test } from "vitest";
import { localHeaders, publicLocations } from "../src/edge/preview-host.ts";
import {
  sessionOf,
  linkIn,
  openLink,
  withLink,
  withoutSessions,
} from "../src/edge/preview-session.ts";
import { admit } from "../src/edge/route.ts";
import { protocolTokenIn, takenProtocol, withoutTokens } from "../src/edge/protocol-token.ts";
import { createGuesses } from "../src/auth/guesses.ts";
import { createPreviewLinks } from "../src/auth/preview-links.ts";
import { createProxies } from "../src/http/proxies.ts";
import { createTokens } from "../src/auth/tokens.ts";

const SECRET = "x".repeat(32);
const ID = "1763309903rt5vs4lm";
const OTHER = "1763309903rt5vs4ln";
const sandboxOf = (id: string, tokenGeneration = 0) => ({
  id: unverifiedSandboxId(id),
  tokenGeneration,
});
const preview = { sandbox: sandboxOf(ID), port: 3000 };
const TERMS = { linkSeconds: 60, sessionSeconds: 600, apiKeyId: 7 };
let nowMs = Date.parse("2031-05-01T12:00:00Z");
const ended = new Set<number>();
const apiKeys = { isGood: async (id: number) => !ended.has(id) };
const linksOf = (...secrets: [string, ...string[]]) =>
  createPreviewLinks(secrets, apiKeys, () => nowMs);
const links = linksOf(SECRET);

describe("links and sessions", () => {
  test("a link opens its preview until it expires, and its session lasts as long as it says", async () => {
    const { token, expiresAt } = await links.issue(preview, TERMS);
    expect(expiresAt.getTime() - nowMs).toBe(60_000);
    nowMs += 59_000;
    const opened = await links.open(token, preview);
    expect(opened?.seconds).toBe(600);
    nowMs += 1_000;
    expect(await links.open(token, preview)).toBeUndefined();
    const session = opened?.session ?? "";
    const expiresAtMs = nowMs + 599_000;
    nowMs += 598_000;
    const grant = { generation: 0, apiKeyId: 7, expiresAtMs };
    expect(await links.grantOf(session, preview)).toEqual(grant);
    nowMs += 1_000;
    expect(await links.grantOf(session, preview)).toBeUndefined();
  });

  test("PS1: neither is good for another sandbox or port, nor in the place of the other or of a token", async () => {
    const { token } = await links.issue(preview, TERMS);
    const session = (await links.open(token, preview))?.session ?? "";
    for (const other of [
      { sandbox: sandboxOf(OTHER), port: 3000 },
      { sandbox: sandboxOf(ID), port: 3001 },
    ]) {
      expect(await links.open(token, other)).toBeUndefined();
      expect(await links.grantOf(session, other)).toBeUndefined();
    }
    expect(await links.open(session, preview)).toBeUndefined();
    expect(await links.grantOf(token, preview)).toBeUndefined();
    const tokens = createTokens(SECRET, { isGood: async () => true });
    const { sandbox } = preview;
    for (const one of [session, token]) expect(await tokens.grantOf(one, sandbox)).toBeUndefined();
    const issued = await tokens.issue(sandbox, { organizationId: 1, apiKeyId: 1 });
    expect(await links.grantOf(issued.token, preview)).toBeUndefined();
    const forged = linksOf("y".repeat(32));
    expect(await links.open((await forged.issue(preview, TERMS)).token, preview)).toBeUndefined();
  });

  test("both end when the sandbox's tokens are revoked, and new ones are good", async () => {
    const { token } = await links.issue(preview, TERMS);
    const session = (await links.open(token, preview))?.session ?? "";
    const revoked = { sandbox: sandboxOf(ID, 1), port: 3000 };
    expect(await links.open(token, revoked)).toBeUndefined();
    expect(await links.grantOf(session, revoked)).toBeUndefined();
    const next = await links.issue(revoked, TERMS);
    expect(await links.open(next.token, revoked)).toBeDefined();
  });

  test("both end with the key that got the link, and of no other", async () => {
    const { token } = await links.issue(preview, TERMS);
    const session = (await links.open(token, preview))?.session ?? "";
    const others = (await links.issue(preview, { ...TERMS, apiKeyId: 8 })).token;
    ended.add(7);
    onTestFinished(() => void ended.delete(7));
    expect(await links.open(token, preview)).toBeUndefined();
    expect(await links.grantOf(session, preview)).toBeUndefined();
    expect(await links.open(others, preview)).toBeDefined();
  });

  test("both outlive an exchange of the secret, while the old one is accepted", async () => {
    const { token } = await links.issue(preview, TERMS);
    const next = linksOf("z".repeat(32), SECRET);
    expect(await next.open(token, preview)).toBeDefined();
    const without = linksOf("z".repeat(32));
    expect(await without.open(token, preview)).toBeUndefined();
  });
});

test("wrong links are counted by their address, before the database is asked; good ones are not", async () => {
  let asked = 0;
  const sandbox = { ...preview.sandbox, previewAccess: "token" };
  const find = async () => ((asked += 1), { sandbox }) as never;
  const endpoint = { name: "n", port: 3000, scheme: "https", find } as const;
  const linkGuesses = createGuesses(3, "links");
  const deps = { db: {} as never, previewLinks: links, linkGuesses, proxies: createProxies("") };
  const openedFrom = async (remoteAddress: string, token: string) => {
    const incoming = {
      method: "GET",
      url: withLink("/a", token),
      headers: {},
      socket: { remoteAddress },
    };
    return await openLink(deps, endpoint, incoming as never, true);
  };
  const { token } = await links.issue(preview, TERMS);
  for (let times = 0; times < 5; times += 1)
    expect(await openedFrom("10.0.0.1", token)).toMatchObject({ path: "/a" });
  for (let times = 0; times < 3; times += 1)
    await expect(openedFrom("10.0.0.1", "a guess")).rejects.toMatchObject({ status: 401 });
  const before = asked;
  await expect(openedFrom("10.0.0.1", "a guess")).rejects.toMatchObject({
    status: 429,
    message: expect.stringMatching(/wrong links/),
  });
  expect(asked).toBe(before);
  expect(await openedFrom("10.0.0.2", token)).toMatchObject({ path: "/a" });
});

describe("the address of a link", () => {
  test.each(["/", "/a/b", "/a?b=c&d", "/a?b=%26torpor_preview=x", "/?torpor_previews=x"])(
    "%s comes out as it went in",
    (path) => {
      expect(linkIn(withLink(path, "t.o.k"))).toEqual({ token: "t.o.k", path });
      expect(linkIn(path)).toBeUndefined();
    },
  );

  test.each(["//evil.example", "/\\evil.example", "\\\\evil.example", "///evil.example"])(
    "%s leads to no other host",
    (path) => {
      expect(linkIn(withLink(path, "t"))?.path).toBe("/evil.example");
    },
  );
});

describe("a session's cookie", () => {
  const endpoint = { name: "n", port: 3000, scheme: "https", find: async () => undefined } as const;
  const host = `3000-${ID}.eu.vms.example.com`;
  const makeSession = async () => {
    const { token } = await links.issue(preview, TERMS);
    return (await links.open(token, preview))?.session ?? "";
  };
  const passes = async (headers: Record<string, string>, port = 3000) =>
    (await sessionOf(
      links,
      preview.sandbox,
      { ...endpoint, port },
      { headers: { host, ...headers } },
    )) !== undefined;

  test("counts beside others, also behind one that somebody else has set", async () => {
    const session = await makeSession();
    expect(await passes({ cookie: `a=b; torpor-preview-3000=${session}` })).toBe(true);
    const hidden = `__Host-torpor-preview-3000=tossed; __Host-torpor-preview-3000=${session}`;
    expect(await passes({ cookie: hidden })).toBe(true);
    expect(await passes({ cookie: `torpor-preview-3001=${session}` })).toBe(false);
    expect(await passes({ cookie: `torpor-preview-7777=${session}` }, 7777)).toBe(false);
    expect(await passes({})).toBe(false);
  });

  test.each([
    [`https://${host}`, true],
    [`https://8000-${ID}.eu.vms.example.com`, true],
    [`https://3000-${OTHER}.eu.vms.example.com`, false],
    ["https://evil.example", false],
    ["null", false],
  ])("PS2: from a page of %s: %s", async (origin, expected) => {
    const cookie = `torpor-preview-3000=${await makeSession()}`;
    expect(await passes({ cookie, origin })).toBe(expected);
  });

  test("on an address, its other ports are the sandbox's own", async () => {
    const cookie = `torpor-preview-3000=${await makeSession()}`;
    const own = { cookie, host: "127.64.1.2:3000" };
    expect(await passes({ ...own, origin: "http://127.64.1.2:8000" })).toBe(true);
    expect(await passes({ ...own, origin: "http://127.64.1.3:3000" })).toBe(false);
  });

  test("what it opens is watched by its generation, its key and its end", async () => {
    const watched: unknown[] = [];
    const streams = { watch: (_: unknown, shown: unknown) => void watched.push(shown) };
    const session = await makeSession();
    const incoming = { headers: { host, cookie: `torpor-preview-3000=${session}` } };
    const sandbox = { ...preview.sandbox, previewAccess: "token" };
    const deps = {
      streams,
      previewLinks: links,
      tokens: createTokens(SECRET, apiKeys),
      connections: { know: () => {} },
      limiter: { take: async () => ({}) },
      underWay: { begin: () => {} },
    };
    const found = { ...endpoint, find: async () => ({ sandbox }) };
    const admitted = await admit(deps as never, { endpoint: found, incoming } as never);
    expect(admitted).toMatchObject({ isUser: true, passesCredentials: true });
    const credential = { sandboxId: ID, generation: 0, gotWithKeyId: 7 };
    const { expiresAtMs } = (await links.grantOf(session, preview)) ?? {};
    expect(watched).toEqual([{ credential, expiresAtMs }]);
    expect(expiresAtMs).toBeGreaterThan(nowMs);
  });

  test("PS3: the application does not see it", () => {
    expect(withoutSessions("a=b; torpor-preview-3000=x;c=d")).toBe("a=b; c=d");
    expect(withoutSessions("__Host-torpor-preview-80=x; torpor-preview-3000=y")).toBeUndefined();
    expect(withoutSessions("torpor=1; x=torpor-preview-3000")).toBe(
      "torpor=1; x=torpor-preview-3000",
    );
  });
});

describe("a token as a sub-protocol", () => {
  const offered = { upgrade: "websocket", "sec-websocket-protocol": "chat, torpor.token.a.b.c" };

  test("is found in an upgrade alone, and the application is offered the others", () => {
    expect(protocolTokenIn(offered)).toBe("a.b.c");
    expect(protocolTokenIn({ ...offered, upgrade: undefined })).toBeUndefined();
    expect(withoutTokens(offered["sec-websocket-protocol"])).toBe("chat");
    expect(withoutTokens("torpor.token.a.b.c")).toBeUndefined();
  });

  test("is what was taken, when the application takes nothing", () => {
    expect(takenProtocol(offered, {})).toEqual({ "sec-websocket-protocol": "torpor.token.a.b.c" });
    expect(takenProtocol(offered, { "sec-websocket-protocol": "chat" })).toEqual({});
    expect(takenProtocol({ upgrade: "websocket" }, {})).toEqual({});
  });
});

describe("preview_host: localhost", () => {
  const endpoint = { name: "n", port: 3000, scheme: "https", find: async () => undefined } as const;
  const headersOf = (headers: Record<string, string>) =>
    localHeaders(endpoint, { headers } as never);

  test("the host, and the page's own origin, are those inside; another origin stays", () => {
    const host = "3000-x.eu.vms.example.com";
    const own = { host: "localhost:3000", origin: "http://localhost:3000" };
    expect(headersOf({ host, origin: `https://${host}` })).toEqual(own);
    expect(headersOf({ host, origin: "https://other" })).toEqual({ host: "localhost:3000" });
    const browserLike = localHeaders({ ...endpoint, port: 80 }, { headers: { host } } as never);
    expect(browserLike).toEqual({ host: "localhost" });
  });

  test.each([
    ["http://localhost:3000/login?a", "https://p.example/login?a"],
    ["http://localhost:3000", "https://p.example"],
    ["http://localhost:30001/", "http://localhost:30001/"],
    ["http://localhost:3000.evil.example/", "http://localhost:3000.evil.example/"],
    ["/login", "/login"],
    ["https://elsewhere.example/", "https://elsewhere.example/"],
  ])("a redirect to %s leads to %s", (location, seen) => {
    const asked = { scheme: "https", host: "p.example" };
    const raw = ["X", "http://localhost:3000/", "Location", location];
    expect(publicLocations(raw, endpoint, asked)).toEqual([...raw.slice(0, 3), seen]);
  });
});
