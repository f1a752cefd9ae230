/** API keys: every route below `/v1` runs behind one hook, so that no route can forget it. */
import {
  type ApiKeyOwner,
  type Database,
  findApiKey,
  isApiKeyGood,
  recordApiKeyUse,
} from "@torpor/db";
import type { FastifyBaseLogger, FastifyRequest } from "fastify";
import type { IncomingHttpHeaders } from "node:http";
import { noApiKey, wrongApiKey } from "../http/errors.ts";
import type { Guesses } from "./guesses.ts";

/** Longest time that a revoked key still works. */
const CACHED_MS = 5_000;
const CACHED_KEYS = 1_000;
const MAX_KEY_LENGTH = 512;
/** Longer than the minute within which the database ignores a second use (`recordApiKeyUse`). */
const NOTE_USE_EVERY_MS = 61_000;
const NOTED_KEYS = 10_000;

export interface ApiKeys {
  /**
   * Returns the owner of a key; undefined when the key is unknown, revoked or expired. Throws the
   * 429 for an address that sends too many such keys.
   */
  find(apiKey: string, address: string): Promise<ApiKeyOwner | undefined>;
  /**
   * True while this key, or a key that a rotation made of it, is good. Otherwise the tokens and
   * links that the key got have ended.
   */
  isGood(id: number): Promise<boolean>;
}

interface KeyDependencies {
  db: Database;
  log: FastifyBaseLogger;
  guesses: Guesses;
}

/** Looks keys up, caches good ones for a few seconds, and records their use. */
export function createApiKeys(deps: KeyDependencies, now: () => number = Date.now): ApiKeys {
  const known = new Map<string, { owner: ApiKeyOwner; untilMs: number }>();
  /** Look-ups under way, by key: concurrent requests share one. */
  const asked = new Map<string, Promise<ApiKeyOwner | undefined>>();
  const noteUse = createUseNotes(deps, now);
  const lookUp = async (apiKey: string, address: string) => {
    const askedMs = now();
    const look = () => findApiKey(deps.db, apiKey);
    // A key that was good is no guess, whatever else comes from its address.
    const owner = await (known.has(apiKey) ? look() : deps.guesses.judge(address, look));
    if (owner === undefined) {
      known.delete(apiKey);
      return undefined;
    }
    if (known.size >= CACHED_KEYS) known.clear();
    const keptMs = Math.min(CACHED_MS, owner.goodForMs ?? CACHED_MS);
    known.set(apiKey, { owner, untilMs: askedMs + keptMs });
    noteUse(owner.apiKeyId);
    return owner;
  };
  const good = new Map<number, number>();
  return {
    async isGood(id) {
      const untilMs = good.get(id);
      if (untilMs !== undefined && untilMs > now()) return true;
      good.delete(id);
      const askedMs = now();
      if (!(await isApiKeyGood(deps.db, id))) return false;
      if (good.size >= CACHED_KEYS) good.clear();
      good.set(id, askedMs + CACHED_MS);
      return true;
    },
    async find(apiKey, address) {
      if (apiKey.length > MAX_KEY_LENGTH) return undefined;
      const hit = known.get(apiKey);
      if (hit !== undefined && hit.untilMs > now()) {
        noteUse(hit.owner.apiKeyId);
        return hit.owner;
      }
      const asking =
        asked.get(apiKey) ?? lookUp(apiKey, address).finally(() => asked.delete(apiKey));
      asked.set(apiKey, asking);
      return await asking;
    },
  };
}

/** Records the use of a key once in a while. No request waits for it; a failure is only logged. */
function createUseNotes(
  { db, log }: Omit<KeyDependencies, "guesses">,
  now: () => number,
): (id: number) => void {
  const notedAtMs = new Map<number, number>();
  return (id) => {
    const atMs = notedAtMs.get(id);
    if (atMs !== undefined && now() - atMs < NOTE_USE_EVERY_MS) return;
    if (notedAtMs.size >= NOTED_KEYS) notedAtMs.clear();
    notedAtMs.set(id, now());
    recordApiKeyUse(db, id).catch((err: unknown) =>
      log.warn({ err, apiKeyId: id }, "use of an API key was not noted"),
    );
  };
}

export interface Authenticator {
  /** The `onRequest` hook. Throws the 401. */
  authenticate: (request: FastifyRequest) => Promise<void>;
  /** The owner of the key of an authenticated request. */
  ownerOf: (request: FastifyRequest) => ApiKeyOwner;
  /** The same for any request; undefined when it is not authenticated. */
  findOwner: (request: FastifyRequest) => ApiKeyOwner | undefined;
}

export function createAuthenticator(apiKeys: ApiKeys): Authenticator {
  const owners = new WeakMap<FastifyRequest, ApiKeyOwner>();
  return {
    async authenticate(request) {
      const apiKey = apiKeyIn(request.headers);
      if (apiKey === undefined) throw noApiKey();
      const owner = await apiKeys.find(apiKey, request.ip);
      if (owner === undefined) throw wrongApiKey();
      owners.set(request, owner);
    },
    findOwner: (request) => owners.get(request),
    ownerOf(request) {
      const owner = owners.get(request);
      if (owner === undefined)
        throw new Error("the route is registered outside the authenticated subtree");
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
