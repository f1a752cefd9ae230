/**
 * Links and sessions that open a preview in a browser, which sends no header of Torpor's. A link is
 * exchanged for a session. Both are JWTs for one port of one sandbox, signed with a key that signs
 * nothing else: neither is good as a sandbox token, or in place of the other. Both end when the
 * sandbox's tokens are revoked, or when the API key that got the link ends. Those of 0.1.0 name no
 * key, and outlive it.
 */
import { createHash } from "node:crypto";
import type { SandboxRow } from "@torpor/db";
import { type JWTPayload, jwtVerify, SignJWT } from "jose";
import type { ApiKeys } from "./auth.ts";
import { grantIn, type TokenGrant } from "./tokens.ts";

const ISSUER = "torpor";
const LINK = "preview-link";
const SESSION = "preview-session";

/** One port of one sandbox. */
export interface Preview {
  sandbox: Pick<SandboxRow, "id" | "tokenGeneration">;
  port: number;
}

interface LinkTerms {
  /** Time in which the link can be opened. */
  linkSeconds: number;
  /** Time for which the browser that opened the link may use the preview. */
  sessionSeconds: number;
}

/** The rights of a session, and the time of its end. */
export interface SessionGrant extends TokenGrant {
  expiresAtMs: number;
}

export interface PreviewLinks {
  /** `apiKeyId`: the key that gets the link. */
  issue(
    preview: Preview,
    terms: LinkTerms & { apiKeyId: number },
  ): Promise<{ token: string; expiresAt: Date }>;
  /** Exchanges a link for a session; undefined: the link has ended, or is not for this preview. */
  open(token: string, preview: Preview): Promise<{ session: string; seconds: number } | undefined>;
  /** Undefined: the session has ended, or is not for this preview. */
  grantOf(session: string, preview: Preview): Promise<SessionGrant | undefined>;
}

/** `secrets`: the first signs, all verify. */
export function createPreviewLinks(
  secrets: readonly [string, ...string[]],
  apiKeys: Pick<ApiKeys, "isGood">,
  now: () => number = Date.now,
): PreviewLinks {
  const [signing, ...accepted] = secrets.map(keyOf) as [Buffer, ...Buffer[]];
  const sign = async (audience: string, preview: Preview, endMs: number, more: object) =>
    await new SignJWT({ port: preview.port, gen: preview.sandbox.tokenGeneration, ...more })
      .setProtectedHeader({ alg: "HS256" })
      .setIssuer(ISSUER)
      .setAudience(audience)
      .setSubject(preview.sandbox.id)
      .setIssuedAt(Math.floor(now() / 1000))
      .setExpirationTime(Math.floor(endMs / 1000))
      .sign(signing);
  const claimsOf = async (audience: string, token: string, { sandbox, port }: Preview) => {
    const expected = { algorithms: ["HS256"], issuer: ISSUER, audience, subject: sandbox.id };
    for (const key of [signing, ...accepted]) {
      const currentDate = new Date(now());
      const verified = await jwtVerify(token, key, { ...expected, currentDate }).catch(() => null);
      if (verified === null) continue;
      const { generation, apiKeyId } = grantIn(verified.payload);
      const isItsOwn = verified.payload["port"] === port && generation >= sandbox.tokenGeneration;
      if (!isItsOwn) return undefined;
      const isGood = apiKeyId === undefined || (await apiKeys.isGood(apiKeyId));
      return isGood ? verified.payload : undefined;
    }
    return undefined;
  };
  return {
    async issue(preview, { linkSeconds, sessionSeconds, apiKeyId }) {
      const expiresAt = new Date(now() + linkSeconds * 1000);
      const more = { session: sessionSeconds, key: apiKeyId };
      const token = await sign(LINK, preview, expiresAt.getTime(), more);
      return { token, expiresAt };
    },
    async open(token, preview) {
      const { session: seconds, key } = (await claimsOf(LINK, token, preview)) ?? {};
      if (typeof seconds !== "number") return undefined;
      const more = key === undefined ? {} : { key };
      return { session: await sign(SESSION, preview, now() + seconds * 1000, more), seconds };
    },
    async grantOf(session, preview) {
      const claims = await claimsOf(SESSION, session, preview);
      return claims && { ...grantIn(claims), expiresAtMs: expiryIn(claims) };
    },
  };
}

/** Every session is signed with an expiry. */
const expiryIn = ({ exp = 0 }: JWTPayload) => exp * 1000;

const keyOf = (secret: string) =>
  createHash("sha256").update(`torpor preview link ${secret}`).digest();
