/**
 * Sandbox tokens: JWT, HS256, `sub` = sandbox id, `org` = organization.
 *
 * They carry no expiry: a live SDK object never changes the token it was built with (hopx-contract.md 0, rule 1), so a token is good as long as its sandbox lives. The edge
 * looks the sandbox up in any case; a deleted one ends its tokens. `expiresAt` is what clients are told, so that they do not refresh all the time.
 */
import { createHash, randomUUID } from "node:crypto";
import { jwtVerify, SignJWT } from "jose";

const ISSUER = "torpor";
const TOLD_LIFETIME_MS = 30 * 24 * 3600 * 1000;
const MIN_SECRET_BYTES = 32;

export interface Tokens {
  issue(sandboxId: string, organizationId: number): Promise<{ token: string; expiresAt: Date }>;
  /** True when the token was issued here for that sandbox. */
  isFor(token: string, sandboxId: string): Promise<boolean>;
}

/** Throws when the secret is too short to sign with. */
export function createTokens(secret: string): Tokens {
  if (Buffer.byteLength(secret) < MIN_SECRET_BYTES)
    throw new Error(`the token secret has fewer than ${MIN_SECRET_BYTES} bytes: generate a longer one`);
  const key = createHash("sha256").update(`torpor sandbox token ${secret}`).digest();
  return {
    async issue(sandboxId, organizationId) {
      const token = await new SignJWT({ org: organizationId })
        .setProtectedHeader({ alg: "HS256" })
        .setIssuer(ISSUER)
        .setSubject(sandboxId)
        .setJti(randomUUID())
        .setIssuedAt()
        .sign(key);
      return { token, expiresAt: new Date(Date.now() + TOLD_LIFETIME_MS) };
    },
    async isFor(token, sandboxId) {
      try {
        await jwtVerify(token, key, { algorithms: ["HS256"], issuer: ISSUER, subject: sandboxId });
        return true;
      } catch {
        return false;
      }
    },
  };
}
