/** API keys: every route below `/v1` runs behind one hook, so that none can forget it. */
import { type ApiKeyOwner, type Database, findApiKey } from "@torpor/db";
import type { FastifyRequest } from "fastify";
import type { IncomingHttpHeaders } from "node:http";
import { noApiKey, wrongApiKey } from "./errors.ts";

/** A revoked key works for so long at most. */
const CACHED_MS = 5_000;
const CACHED_KEYS = 1_000;
const MAX_KEY_LENGTH = 512;

export interface ApiKeys {
  /** The owner of a key; undefined when it is unknown or revoked. */
  find(apiKey: string): Promise<ApiKeyOwner | undefined>;
}

/** Looks keys up, and remembers those that are good for a few seconds. */
export function createApiKeys(db: Database, now: () => number = Date.now): ApiKeys {
  const known = new Map<string, { owner: ApiKeyOwner; untilMs: number }>();
  return {
    async find(apiKey) {
      if (apiKey.length > MAX_KEY_LENGTH) return undefined;
      const hit = known.get(apiKey);
      if (hit !== undefined && hit.untilMs > now()) return hit.owner;
      known.delete(apiKey);
      const owner = await findApiKey(db, apiKey);
      if (owner === undefined) return undefined;
      if (known.size >= CACHED_KEYS) known.clear();
      known.set(apiKey, { owner, untilMs: now() + CACHED_MS });
      return owner;
    },
  };
}

export interface Authenticator {
  /** To be registered as `onRequest` hook. Throws the 401. */
  authenticate: (request: FastifyRequest) => Promise<void>;
  /** Who sent an authenticated request. */
  ownerOf: (request: FastifyRequest) => ApiKeyOwner;
}

export function createAuthenticator(apiKeys: ApiKeys): Authenticator {
  const owners = new WeakMap<FastifyRequest, ApiKeyOwner>();
  return {
    async authenticate(request) {
      const apiKey = apiKeyIn(request.headers);
      if (apiKey === undefined) throw noApiKey();
      const owner = await apiKeys.find(apiKey);
      if (owner === undefined) throw wrongApiKey();
      owners.set(request, owner);
    },
    ownerOf(request) {
      const owner = owners.get(request);
      if (owner === undefined) throw new Error("the route is registered outside the authenticated subtree");
      return owner;
    },
  };
}

/** `X-API-Key`, else `Authorization: Bearer`. */
function apiKeyIn(headers: IncomingHttpHeaders): string | undefined {
  const own = headers["x-api-key"];
  if (typeof own === "string" && own !== "") return own;
  return bearerIn(headers);
}

export function bearerIn(headers: IncomingHttpHeaders): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(headers.authorization ?? "")?.[1];
}
