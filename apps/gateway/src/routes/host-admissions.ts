/**
 * Admission of hosts: an operator creates a token; a host sends it, with a key for its certificate
 * and one for the NATS servers, both of its own making. Only then do those servers
 * (infra/nats/configure.ts --admissions) and the schedulers know the host.
 */
import {
  CreateHostTokenBody,
  HostAdmissionList,
  HostAdmissionReply,
  type HostId,
  HostTokenList,
  HostTokenReply,
  isHostId,
  JoinBody,
  JoinReply,
  lifetimeOf,
  NewHostTokenReply,
  PageQuery,
  unverifiedHostId,
} from "@torpor/contracts";
import { randomBytes } from "node:crypto";
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { isNatsPublicKey } from "@torpor/bus";
import {
  createHostToken,
  isHostTokenKnown,
  type Joined,
  joinHost,
  listHostAdmissions,
  listHostTokens,
  revokeHost,
  revokeHostToken,
} from "@torpor/db";
import type { Authenticator } from "../auth/auth.ts";
import { decodeCursor } from "../http/cursor.ts";
import type { Dependencies } from "../deps.ts";
import { ApiError, invalidRequest, unknownResource } from "../http/errors.ts";
import { isRowId } from "../http/ids.ts";
import { pageOf } from "../http/page.ts";
import { ERRORS, IdParams } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { hostAdmissionView, hostTokenView } from "../views/host-admission.ts";

const tags = ["hosts"];
const SECRET_BYTES = 24;
const DEFAULT_PAGE = 100;
const NOT_STORED = { "cache-control": "no-store" };
const OPERATES = needs("operator");

type Plugin = FastifyPluginAsyncTypebox<{ deps: Dependencies; auth: Authenticator }>;

/** Routes for operators. */
export const hostAdmissionRoutes: Plugin = async (app, { deps: { db }, auth }) => {
  const create = {
    tags,
    body: CreateHostTokenBody,
    response: { 201: NewHostTokenReply, ...ERRORS },
  };
  app.post("/host-tokens", { schema: create, config: OPERATES }, async (request, reply) => {
    const {
      host_id: hostId,
      data_plane_host: dataPlaneHost = null,
      lifetime_seconds: lifetime,
    } = request.body;
    const secret = `torpor_join_${randomBytes(SECRET_BYTES).toString("hex")}`;
    const createdBy = `api-key:${auth.ownerOf(request).apiKeyId}`;
    const lifetimeSeconds = lifetimeOf(lifetime);
    const token = await createHostToken(db, {
      secret,
      // The schema of the body has checked it.
      hostId: hostId === undefined ? null : unverifiedHostId(hostId),
      dataPlaneHost,
      createdBy,
      lifetimeSeconds,
    });
    reply.status(201).headers(NOT_STORED);
    return { ...hostTokenView(token), secret, request_id: request.id };
  });

  const listTokens = { tags, querystring: PageQuery, response: { 200: HostTokenList, ...ERRORS } };
  app.get("/host-tokens", { schema: listTokens, config: OPERATES }, async (request) => {
    const { limit = DEFAULT_PAGE, cursor } = request.query;
    const after = cursor === undefined ? undefined : Number(decodeCursor(cursor, isRowId));
    const tokens = await listHostTokens(db, { limit: limit + 1, after });
    return pageOf(tokens, {
      limit,
      keyOf: ({ id }) => id,
      view: hostTokenView,
      url: "/v1/host-tokens",
      requestId: request.id,
    });
  });

  const revokeToken = { tags, params: IdParams, response: { 200: HostTokenReply, ...ERRORS } };
  app.delete("/host-tokens/:id", { schema: revokeToken, config: OPERATES }, async (request) => {
    const { id } = request.params;
    const token = isRowId(id) ? await revokeHostToken(db, Number(id)) : undefined;
    if (token === undefined)
      throw unknownResource("host token", id, "GET /v1/host-tokens lists them.");
    return { ...hostTokenView(token), request_id: request.id };
  });

  const list = { tags, querystring: PageQuery, response: { 200: HostAdmissionList, ...ERRORS } };
  app.get("/host-admissions", { schema: list, config: OPERATES }, async (request) => {
    const { limit = DEFAULT_PAGE, cursor } = request.query;
    const after = cursor === undefined ? undefined : decodeCursor(cursor, isHostId);
    const admissions = await listHostAdmissions(db, { limit: limit + 1, after });
    const url = "/v1/host-admissions";
    return pageOf(admissions, {
      limit,
      keyOf: ({ hostId }) => hostId,
      view: hostAdmissionView,
      url,
      requestId: request.id,
    });
  });

  const revoke = { tags, params: IdParams, response: { 200: HostAdmissionReply, ...ERRORS } };
  app.delete("/host-admissions/:id", { schema: revoke, config: OPERATES }, async (request) => {
    const { id } = request.params;
    const by = `api-key:${auth.ownerOf(request).apiKeyId}`;
    const revoked = isHostId(id) ? await revokeHost(db, id, by) : undefined;
    if (revoked === undefined)
      throw unknownResource("host", id, "GET /v1/host-admissions lists those that have joined.");
    return { ...hostAdmissionView({ ...revoked, isBeforeGood: false }), request_id: request.id };
  });
};

/** Needs no API key: the token lets a host in. */
export const joinRoute: FastifyPluginAsyncTypebox<{ deps: Dependencies }> = async (
  app,
  { deps },
) => {
  const { db, fleetIdentity, guesses } = deps;
  const schema = { tags, security: [], body: JoinBody, response: { 201: JoinReply, ...ERRORS } };
  app.post("/host-admissions", { schema }, async (request, reply) => {
    const {
      token: secret,
      host_id: hostId,
      certificate_request: certificateRequest,
      nats_public_key: natsPublicKey,
    } = request.body;
    if (!isNatsPublicKey(natsPublicKey))
      throw invalidRequest([
        { field: "nats_public_key", message: "is no NKey of a user: its checksum is wrong" },
      ]);
    const look = async () => ((await isHostTokenKnown(db, secret)) ? true : undefined);
    // A wrong token counts as a guess, and nothing is signed for it.
    if ((await guesses.judge(request.ip, look)) === undefined) throw refusalOf("unknown", hostId);
    // Before the token, which is good once, is used up: after a bad request the host can try again.
    const certified = await fleetIdentity.certify(certificateRequest, hostId);
    if (certified === undefined)
      throw invalidRequest([
        { field: "certificate_request", message: "is no request that is signed by its own key" },
      ]);
    const joined = await joinHost(
      db,
      { secret, hostId, natsPublicKey, certificateKeySha256: certified.keySha256 },
      certified.expiresAt,
    );
    if (joined.kind === "refused") throw refusalOf(joined.why, hostId);
    request.log.info({ hostId, admittedBy: joined.admission.admittedBy }, "host joined");
    reply.status(201).headers(NOT_STORED);
    return {
      object: "host_identity" as const,
      host_id: hostId,
      nats_url: fleetIdentity.natsUrl,
      certificate: certified.certificatePem,
      certificate_expires_at: certified.expiresAt?.toISOString() ?? null,
      authorities: fleetIdentity.authoritiesPem,
      request_id: request.id,
    };
  });
};

function refusalOf(why: Extract<Joined, { kind: "refused" }>["why"], hostId: HostId): ApiError {
  const another = "Ask an operator for another one (./torpor hosts token).";
  switch (why) {
    // One message for all of these: a guess reveals nothing.
    case "unknown":
    case "ended":
      return new ApiError(
        "INVALID_TOKEN",
        `The token is unknown, has expired, or was revoked. ${another}`,
      );
    case "used":
      return new ApiError(
        "INVALID_TOKEN",
        `The token was used before: it lets one host join, once. ${another}`,
      );
    case "another_host":
      return new ApiError("FORBIDDEN", `The token is for another host than ${hostId}. ${another}`);
    case "host_is_there":
      return new ApiError(
        "CONFLICT",
        `${hostId} is a host already. To let that machine join again, with new keys, make a token for it: ./torpor hosts token --host ${hostId}.`,
      );
    case "retired":
      return new ApiError("CONFLICT", `${hostId} was retired, and stays so. Join with another id.`);
  }
}
