/**
 * What opens a preview in a browser, which sends no header of ours: a link, and the session that
 * it is exchanged for. Both are JWTs for one port of one sandbox, signed with a key that signs
 * nothing else: none of them is a sandbox token, nor one of them the other. They end when the
 * sandbox's tokens are revoked.
 */
import { createHash } from "node:crypto";
import type { SandboxRow } from "@torpor/db";
import { jwtVerify, SignJWT } from "jose";

const ISSUER = "torpor";
const LINK = "preview-link";
const SESSION = "preview-session";

/** One port of one sandbox. */
export interface Preview {
  sandbox: Pick<SandboxRow, "id" | "tokenGeneration">;
  port: number;
}

interface LinkTerms {
  /** For so long the link can be opened. */
  linkSeconds: number;
  /** For so long the browser that opened it may use the preview. */
  sessionSeconds: number;
}

export interface PreviewLinks {
  issue(preview: Preview, terms: LinkTerms): Promise<{ token: string; expiresAt: Date }>;
  /** The session that a link is good for; undefined: it has expired, or is not for this preview. */
  open(token: string, preview: Preview): Promise<{ session: string; seconds: number } | undefined>;
  isSession(session: string, preview: Preview): Promise<boolean>;
}

/** `secrets`: the first signs, all verify. */
export function createPreviewLinks(
  secrets: readonly [string, ...string[]],
  now: () => number = Date.now,
): PreviewLinks {
  const [signing, ...accepted] = secrets.map(keyOf) as [Buffer, ...Buffer[]];
  const sign = async (audience: string, preview: Preview, endMs: number, more: object = {}) =>
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
      const { port: itsPort, gen = 0 } = verified.payload;
      // Revoked with the sandbox's tokens.
      const isGood = itsPort === port && Number(gen) >= sandbox.tokenGeneration;
      return isGood ? verified.payload : undefined;
    }
    return undefined;
  };
  return {
    async issue(preview, { linkSeconds, sessionSeconds }) {
      const expiresAt = new Date(now() + linkSeconds * 1000);
      const token = await sign(LINK, preview, expiresAt.getTime(), { session: sessionSeconds });
      return { token, expiresAt };
    },
    async open(token, preview) {
      const seconds = (await claimsOf(LINK, token, preview))?.["session"];
      if (typeof seconds !== "number") return undefined;
      return { session: await sign(SESSION, preview, now() + seconds * 1000), seconds };
    },
    isSession: async (session, preview) =>
      (await claimsOf(SESSION, session, preview)) !== undefined,
  };
}

const keyOf = (secret: string) =>
  createHash("sha256").update(`torpor preview link ${secret}`).digest();
