/**
 * Sandbox tokens: JWT, HS256, `sub` = sandbox id, `org` = organization, `gen` = generation of the
 * sandbox's tokens, `key` = API key that got it.
 *
 * Tokens carry no expiry: a live SDK object never changes the token it was built with. A token is
 * good until its sandbox is deleted, the sandbox's tokens are revoked, or the key that got it ends.
 * Clients get an `expiresAt` only so that they do not refresh all the time.
 *
 * TK1  `kid` names the secret that a token was signed with. The first secret signs, all verify: a
 *      secret can be replaced without ending a token.
 * TK2  Tokens of 0.1.0 have neither `kid`, `gen` nor `key`: any of the secrets may have signed
 *      them, they are of generation 0, and they outlive the key that got them.
 */
import { createHash, randomUUID } from "node:crypto";
import type { SandboxId } from "@torpor/contracts";
import type { ApiKeyOwner, SandboxRow } from "@torpor/db";
import { LRUCache } from "lru-cache";
import { type JWTPayload, jwtVerify, SignJWT } from "jose";
import type { ApiKeys } from "./auth.ts";

const ISSUER = "torpor";
const TOLD_LIFETIME_MS = 30 * 24 * 3600 * 1000;
const MIN_SECRET_BYTES = 32;
const KEY_ID_DIGITS = 16;
/** Verified tokens are cached: a verification costs a fifth of the work for a small request. */
const MAX_VERIFIED = 10_000;

type TokenSandbox = Pick<SandboxRow, "id" | "tokenGeneration">;

export interface Tokens {
  issue(
    sandbox: TokenSandbox,
    owner: Pick<ApiKeyOwner, "organizationId" | "apiKeyId">,
  ): Promise<{ token: string; expiresAt: Date }>;
  /** The grant of a token; undefined: the token has ended, or is not for that sandbox. */
  grantOf(token: string, sandbox: TokenSandbox): Promise<TokenGrant | undefined>;
}

export interface TokenGrant {
  generation: number;
  /** The key that got the token; undefined in tokens of 0.1.0 (TK2). */
  apiKeyId: number | undefined;
}

interface SigningKey {
  id: string;
  bytes: Uint8Array;
}

/** `accepted`: former and future signing secrets. Throws when a secret is too short. */
export function createTokens(
  secret: string,
  apiKeys: Pick<ApiKeys, "isGood">,
  accepted: readonly string[] = [],
): Tokens {
  const signing = signingKey(secret);
  const known = [signing, ...accepted.map(signingKey)];
  const verified = new LRUCache<string, JWTPayload>({ max: MAX_VERIFIED });
  const claimsOf = async (token: string, sandboxId: SandboxId) => {
    // Only a digest is kept: a dump of the memory reveals no token.
    const digest = createHash("sha256").update(token).digest("base64");
    const claims = verified.get(digest) ?? (await verify(token, sandboxId, known));
    if (claims?.sub !== sandboxId) return undefined;
    if (hasNoTime(claims)) verified.set(digest, claims);
    return claims;
  };
  return {
    async issue(sandbox, { organizationId, apiKeyId }) {
      const claims = { org: organizationId, gen: sandbox.tokenGeneration, key: apiKeyId };
      const token = await new SignJWT(claims)
        .setProtectedHeader({ alg: "HS256", kid: signing.id })
        .setIssuer(ISSUER)
        .setSubject(sandbox.id)
        .setJti(randomUUID())
        .setIssuedAt()
        .sign(signing.bytes);
      return { token, expiresAt: new Date(Date.now() + TOLD_LIFETIME_MS) };
    },
    async grantOf(token, sandbox) {
      const claims = await claimsOf(token, sandbox.id);
      if (claims === undefined) return undefined;
      const grant = grantIn(claims);
      if (grant.generation < sandbox.tokenGeneration) return undefined;
      const isGood = grant.apiKeyId === undefined || (await apiKeys.isGood(grant.apiKeyId));
      return isGood ? grant : undefined;
    },
  };
}

/** Torpor's tokens have no times; a token with one is verified each time. */
const hasNoTime = ({ exp, nbf }: JWTPayload) => exp === undefined && nbf === undefined;

function signingKey(secret: string): SigningKey {
  if (Buffer.byteLength(secret) < MIN_SECRET_BYTES)
    throw new Error(
      `a token secret has fewer than ${MIN_SECRET_BYTES} bytes: generate a longer one`,
    );
  const bytes = createHash("sha256").update(`torpor sandbox token ${secret}`).digest();
  // Part of a digest of the key, which reveals nothing of it.
  const digest = createHash("sha256").update("torpor key id").update(bytes).digest("hex");
  return { id: digest.slice(0, KEY_ID_DIGITS), bytes };
}

/** The claims of a token for that sandbox; undefined when none of the keys signed it. */
async function verify(
  token: string,
  sandboxId: SandboxId,
  known: readonly SigningKey[],
): Promise<JWTPayload | undefined> {
  for (const key of known) {
    try {
      const options = { algorithms: ["HS256"], issuer: ISSUER, subject: sandboxId };
      const { payload, protectedHeader } = await jwtVerify(token, key.bytes, options);
      const { kid = key.id } = protectedHeader;
      if (kid === key.id) return payload;
    } catch {
      // Another key may have signed it.
    }
  }
  return undefined;
}

/** A token without a generation is older than the revocation of tokens, and of generation 0. */
export const grantIn = ({ gen = 0, key }: JWTPayload): TokenGrant => ({
  generation: Number(gen),
  apiKeyId: key === undefined ? undefined : Number(key),
});
