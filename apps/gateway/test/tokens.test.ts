/**
 * Sandbox tokens: the sandbox that they are good for, the replacement of the signing secret, and
 * their end.
 */
import { createHash } from "node:crypto";
import type { SandboxId } from "@torpor/contracts";
import { decodeJwt, decodeProtectedHeader, SignJWT } from "jose";
import { describe, expect, test } from "vitest";
import { createTokens, type Tokens } from "../src/auth/tokens.ts";

const [OLD, NEW] = ["x".repeat(32), "y".repeat(32)];
const ended = new Set<number>();
const apiKeys = { isGood: async (id: number) => !ended.has(id) };
const tokensOf = (secret: string, accepted: string[] = []) =>
  createTokens(secret, apiKeys, accepted);

const mine = { id: "1763309903rt5vs4lm" as SandboxId, tokenGeneration: 0 };
const other = { id: "1763309904rt5vs4lm" as SandboxId, tokenGeneration: 0 };
const owner = { organizationId: 7, apiKeyId: 3 };
const issue = async (tokens: Tokens, sandbox = mine, apiKeyId = 3) =>
  (await tokens.issue(sandbox, { ...owner, apiKeyId })).token;

const isFor = async (tokens: Tokens, token: string, sandbox: typeof mine) =>
  (await tokens.grantOf(token, sandbox)) !== undefined;

/** A token as gateways of 0.1.0 sign it. */
async function oldToken(secret: string, claims = {}, sandboxId = mine.id): Promise<string> {
  const key = createHash("sha256").update(`torpor sandbox token ${secret}`).digest();
  const jwt = new SignJWT({ org: 7, ...claims }).setProtectedHeader({ alg: "HS256" });
  return await jwt.setIssuer("torpor").setSubject(sandboxId).setIssuedAt().sign(key);
}

describe("a token", () => {
  const tokens = tokensOf(OLD);

  test("opens its own sandbox alone, and never expires with it alive", async () => {
    const { token, expiresAt } = await tokens.issue(mine, owner);
    expect(await isFor(tokens, token, mine)).toBe(true);
    expect(await isFor(tokens, token, other)).toBe(false);
    expect(decodeJwt(token)).toMatchObject({ sub: mine.id, org: 7, gen: 0, key: 3 });
    expect(decodeJwt(token).exp).toBeUndefined();
    expect(expiresAt.getTime()).toBeGreaterThan(Date.now());
    expect(await issue(tokens)).not.toBe(token);
  });

  test("of another secret, another issuer, another algorithm or none is refused", async () => {
    const key = Buffer.from(OLD);
    const forged = await new SignJWT({})
      .setProtectedHeader({ alg: "HS256" })
      .setIssuer("torpor")
      .setSubject(mine.id)
      .sign(key);
    const foreign = await issue(tokensOf(NEW));
    const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const claims = encode({ iss: "torpor", sub: mine.id });
    const unsigned = `${encode({ alg: "none" })}.${claims}.`;
    const token = await issue(tokens);
    const [head, , signature] = token.split(".");
    const altered = [head, encode({ iss: "torpor", sub: other.id }), signature].join(".");
    for (const bad of [forged, foreign, unsigned, "", "x.y.z", `${token}x`])
      expect(await isFor(tokens, bad, mine), bad).toBe(false);
    expect(await isFor(tokens, altered, other)).toBe(false);
  });

  test("is not signed with a secret that is too short", () => {
    expect(() => tokensOf("short")).toThrow(/32 bytes/);
    expect(() => tokensOf(OLD, ["short"])).toThrow(/32 bytes/);
  });
});

test("TK1: a secret is exchanged in three steps, and no token ends or is refused meanwhile", async () => {
  const fleets = [tokensOf(OLD), tokensOf(OLD, [NEW]), tokensOf(NEW, [OLD])];
  const issued = await Promise.all(fleets.map((tokens) => issue(tokens)));
  const [first, second, third] = issued.map((token) => decodeProtectedHeader(token).kid);
  expect(second).toBe(first);
  expect(third).not.toBe(first);
  // Gateways are restarted one by one: a gateway gets tokens of the step before and after its own.
  for (const [at, tokens] of fleets.entries())
    for (const token of issued.slice(Math.max(0, at - 1), at + 2))
      expect(await isFor(tokens, token, mine)).toBe(true);
  expect(await isFor(tokensOf(NEW), issued[0] ?? "", mine), "the old secret is gone").toBe(false);
});

test("the key id says nothing of the secret, and another secret's is not believed", async () => {
  const token = await issue(tokensOf(OLD));
  const { kid } = decodeProtectedHeader(token);
  expect(kid).toMatch(/^[0-9a-f]{16}$/);
  expect(createHash("sha256").update(OLD).digest("hex")).not.toContain(kid);
  const key = createHash("sha256").update(`torpor sandbox token ${OLD}`).digest();
  const misnamed = await new SignJWT({})
    .setProtectedHeader({ alg: "HS256", kid: "0".repeat(16) })
    .setIssuer("torpor")
    .setSubject(mine.id)
    .sign(key);
  expect(await isFor(tokensOf(OLD), misnamed, mine)).toBe(false);
});

describe("a token ends", () => {
  const tokens = tokensOf(OLD);

  test("when the sandbox's tokens are revoked; those that are got after that are good", async () => {
    const [token, before] = [await issue(tokens), await oldToken(OLD)];
    for (const good of [token, before]) expect(await isFor(tokens, good, mine)).toBe(true);
    const revoked = { ...mine, tokenGeneration: 1 };
    for (const bad of [token, before]) expect(await isFor(tokens, bad, revoked)).toBe(false);
    expect(await isFor(tokens, await issue(tokens, revoked), revoked)).toBe(true);
  });

  test("with the API key that got it, and no other's does", async () => {
    const [theirs, own] = [await issue(tokens, mine, 4), await issue(tokens)];
    ended.add(4);
    expect(await isFor(tokens, theirs, mine)).toBe(false);
    expect(await isFor(tokens, own, mine)).toBe(true);
  });

  test("TK2: of 0.1.0, which names no key, with none", async () => {
    expect(await isFor(tokens, await oldToken(OLD), mine)).toBe(true);
    expect(await isFor(tokensOf(NEW, [OLD]), await oldToken(OLD), mine)).toBe(true);
    expect(await isFor(tokens, await oldToken(OLD, {}, other.id), mine)).toBe(false);
  });
});
