/**
 * API keys: those of its own organization for each key with the scope, all of them for operators.
 * What a key may do with others is in key-rules.ts.
 */
import {
  CreateKeyBody,
  type KeyForm,
  KeyList,
  KeyListQuery,
  KeyReply,
  NewKeyReply,
  RotatedKeyReply,
  RotateKeyBody,
} from "@torpor/contracts";
import { randomBytes } from "node:crypto";
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import {
  type ApiKeyOwner,
  type ApiKeyRecord,
  createApiKey,
  findApiKeyRecord,
  findOrganization,
  listApiKeys,
  revokeApiKey,
  rotateApiKey,
} from "@torpor/db";
import { Type } from "typebox";
import type { Authenticator } from "../auth/auth.ts";
import { decodeCursor } from "../http/cursor.ts";
import type { Dependencies } from "../deps.ts";
import { ApiError, invalidRequest, unknownResource } from "../http/errors.ts";
import { futureTime } from "../http/future-time.ts";
import { isRowId } from "../http/ids.ts";
import {
  checkGrant,
  checkRevocation,
  checkRotation,
  type Grant,
  type KeyProblem,
} from "../auth/key-rules.ts";
import { pageOf } from "../http/page.ts";
import { ERRORS, IdParams } from "../http/schemas.ts";
import { needs, scopeMissing } from "../auth/scopes.ts";
import { keyView } from "../views/key.ts";

const tags = ["keys"];
const SECRET_BYTES = 24;
/** Digits of the hint, of 48: the rest cannot be guessed. */
const HINT_DIGITS = 4;
const DEFAULT_PAGE = 100;
const PREFIX: Record<KeyForm, string> = { torpor: "torpor_live_", e2b: "e2b_" };
const NOT_STORED = { "cache-control": "no-store" };
const MANAGES = needs("lifecycle", "operator");

type Plugin = FastifyPluginAsyncTypebox<{ deps: Dependencies; auth: Authenticator }>;

export const keyRoutes: Plugin = async (app, { deps: { db }, auth }) => {
  /** The organization that a request names, else its own. Only operators may name another. */
  const organizationIn = async (owner: ApiKeyOwner, name: string | undefined): Promise<number> => {
    if (name === undefined) return owner.organizationId;
    const named = await findOrganization(db, name);
    // Only operators may learn whether another organization exists.
    if (named?.id !== owner.organizationId && !owner.scopes.includes("operator"))
      throw scopeMissing("operator", owner.scopes, "Naming another organization");
    if (named === undefined)
      throw unknownResource("organization", name, "GET /v1/organizations lists them.");
    return named.id;
  };
  const existing = async (id: string): Promise<ApiKeyRecord> => {
    const key = isRowId(id) ? await findApiKeyRecord(db, Number(id)) : undefined;
    if (key === undefined) throw unknownKey(id);
    return key;
  };

  const create = { tags, body: CreateKeyBody, response: { 201: NewKeyReply, ...ERRORS } };
  app.post("/keys", { schema: create, config: MANAGES }, async (request, reply) => {
    const owner = auth.ownerOf(request);
    const { name, scopes, organization, expires_at: expiry, form = "torpor" } = request.body;
    const organizationId = await organizationIn(owner, organization);
    const expiresAt = expiryOf(expiry, owner);
    const grant = { organizationId, scopes, expiresAt };
    assertAllowed(owner, grant, checkGrant(owner, grant), "expires_at");
    const made = newSecret(form);
    const createdBy = `api-key:${owner.apiKeyId}`;
    const key = await createApiKey(db, { ...grant, ...made, name, createdBy });
    reply.status(201).headers(NOT_STORED);
    return { ...keyView(key), secret: made.secret, request_id: request.id };
  });

  const list = { tags, querystring: KeyListQuery, response: { 200: KeyList, ...ERRORS } };
  const lists = needs("read", "operator");
  app.get("/keys", { schema: list, config: lists }, async (request) => {
    const owner = auth.ownerOf(request);
    const { limit = DEFAULT_PAGE, cursor, status, organization } = request.query;
    const beforeId = cursor === undefined ? undefined : Number(decodeCursor(cursor, isRowId));
    const isOfAll = organization === undefined && owner.scopes.includes("operator");
    const organizationId = isOfAll ? undefined : await organizationIn(owner, organization);
    const keys = await listApiKeys(db, { organizationId, status, limit: limit + 1, beforeId });
    return pageOf(keys, {
      limit,
      keyOf: ({ id }) => id,
      view: keyView,
      url: "/v1/keys",
      requestId: request.id,
    });
  });

  const revoke = { tags, params: IdParams, response: { 200: KeyReply, ...ERRORS } };
  app.delete("/keys/:id", { schema: revoke, config: MANAGES }, async (request) => {
    const owner = auth.ownerOf(request);
    const asked = await existing(request.params.id);
    assertAllowed(owner, asked, checkRevocation(owner, asked));
    const revoked = await revokeApiKey(db, asked.id);
    if (revoked.kind === "not_found") throw unknownKey(request.params.id);
    if (revoked.kind === "last_operator") throw lastOperator();
    return { ...keyView(revoked.key), request_id: request.id };
  });

  const rotate = {
    tags,
    params: IdParams,
    body: Type.Union([RotateKeyBody, Type.Null()]),
    response: { 201: RotatedKeyReply, ...ERRORS },
  };
  app.post("/keys/:id/rotate", { schema: rotate, config: MANAGES }, async (request, reply) => {
    const owner = auth.ownerOf(request);
    const asked = await existing(request.params.id);
    assertAllowed(owner, asked, checkRotation(owner, asked));
    // A client that insists on the form of the old key needs it for the new one.
    const made = newSecret(formOf(asked));
    const overlapSeconds = request.body?.overlap_seconds ?? 0;
    const requestedBy = `api-key:${owner.apiKeyId}`;
    const rotated = await rotateApiKey(db, asked.id, { ...made, overlapSeconds, requestedBy });
    if (rotated.kind === "not_found") throw unknownKey(request.params.id);
    if (rotated.kind === "refused") throw notRotatable(rotated.key);
    const { key, replaced } = rotated;
    reply.status(201).headers(NOT_STORED);
    const { secret } = made;
    return { ...keyView(key), secret, replaces: keyView(replaced), request_id: request.id };
  });
};

/**
 * A new secret, and the part of it that is stored, for people who have a key and look for its row.
 */
function newSecret(form: KeyForm): { secret: string; hint: string } {
  const secret = `${PREFIX[form]}${randomBytes(SECRET_BYTES).toString("hex")}`;
  return { secret, hint: secret.slice(0, PREFIX[form].length + HINT_DIGITS) };
}

const formOf = ({ hint }: ApiKeyRecord): KeyForm =>
  hint?.startsWith(PREFIX.e2b) === true ? "e2b" : "torpor";

function expiryOf(asked: string | null | undefined, owner: ApiKeyOwner): Date | null {
  if (asked === undefined) return owner.expiresAt;
  return asked === null ? null : futureTime("expires_at", asked);
}

const unknownKey = (id: string) => unknownResource("key", id, "GET /v1/keys lists them.");

/** Throws the error for a problem. `expiryField`: the request's field with the expiry, if any. */
function assertAllowed(
  owner: ApiKeyOwner,
  asked: Grant & { id?: number },
  problem: KeyProblem | undefined,
  expiryField?: string,
): void {
  switch (problem?.kind) {
    case undefined:
      return;
    case "unknown":
      throw unknownKey(String(asked.id));
    case "scope":
      throw scopeMissing(problem.scope, owner.scopes, "Managing such a key");
    case "outlasts": {
      const until = problem.until.toISOString();
      if (expiryField === undefined)
        throw new ApiError(
          "FORBIDDEN",
          `The key of this request ends at ${until}, before that one.`,
        );
      const message = `must not be later than ${until}, when the key of this request ends`;
      throw invalidRequest([{ field: expiryField, message }]);
    }
  }
}

const lastOperator = () =>
  new ApiError(
    "CONFLICT",
    "This is the last key with the scope 'operator'. Make another one first, or rotate it.",
  );

function notRotatable({ id, status, replacedBy }: ApiKeyRecord): ApiError {
  const why =
    replacedBy === null
      ? `is ${status}; create another one`
      : `was rotated already: key ${replacedBy} has taken its place`;
  const replaced = replacedBy === null ? {} : { replaced_by: replacedBy };
  return new ApiError("CONFLICT", `Key ${id} ${why}.`, {
    details: { current_state: status, requested: "rotate", ...replaced },
  });
}
