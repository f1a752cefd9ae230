/**
 * The public API, without a listener: tests exercise exactly what production runs.
 *
 * AP1  Every response is JSON with a request id, in the header `x-request-id` and in the body; so
 *      are the refusals of HTTP itself.
 * AP2  Every route below /v1 is behind the API key, counts against its budget, and needs the scope
 *      that it declares: the hooks are on the subtree.
 */
import swagger from "@fastify/swagger";
import { MAX_HEADER_BYTES } from "@torpor/contracts";
import type { ApiKeyOwner } from "@torpor/db";
import { discardRequest } from "@torpor/service/end-answer";
import type { TypeBoxTypeProvider } from "@fastify/type-provider-typebox";
import Fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from "fastify";
import { auditEntry, isAudited, outcomeOf } from "../audit.ts";
import { createApiKeys, createAuthenticator } from "../auth/auth.ts";
import { acceptJson } from "./body-parser.ts";
import { isDatabaseOutage } from "../database-outage.ts";
import { inLane } from "../database-turns.ts";
import type { Dependencies } from "../deps.ts";
import {
  ApiError,
  apiErrorIn,
  errorBody,
  internalError,
  invalidRequest,
  serviceUnavailable,
  unknownResource,
} from "./errors.ts";
import { refuseUnknownParameters } from "./list-filter.ts";
import { OPENAPI } from "./openapi-info.ts";
import { refuseMalformedHttp } from "./malformed-http.ts";
import { ownerOfAddress } from "./proxies.ts";
import { requestIdOf } from "./request-id.ts";
import { auditRoutes } from "../routes/audit.ts";
import { createSandboxRoute } from "../routes/create-sandbox.ts";
import { healthRoutes } from "../routes/health.ts";
import { hostAdmissionRoutes, joinRoute } from "../routes/host-admissions.ts";
import { hostRoutes } from "../routes/hosts.ts";
import { keyRoutes } from "../routes/keys.ts";
import { operationRoutes } from "../routes/operations.ts";
import { organizationRoutes } from "../routes/organizations.ts";
import { patchSandboxRoute } from "../routes/patch-sandbox.ts";
import { placementRoutes } from "../routes/placements.ts";
import { previewLinkRoutes } from "../routes/preview-links.ts";
import { quotaRoutes } from "../routes/quotas.ts";
import { sandboxRoutes } from "../routes/sandboxes.ts";
import { templateRoutes } from "../routes/templates.ts";
import { tokenRoutes } from "../routes/tokens.ts";
import { transitionRoutes } from "../routes/transitions.ts";
import { assertScope, requireDeclaredScope } from "../auth/scopes.ts";
import { findUnstorableText, validatorCompiler } from "./validation.ts";

/** Time for a client to send a whole request. */
const REQUEST_LIMIT_MS = 30_000;
const KEEP_ALIVE_MS = 65_000;

export function buildApp(deps: Dependencies): FastifyInstance {
  const app = Fastify({
    loggerInstance: deps.log,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: deps.limits.bodyBytes,
    requestIdHeader: false,
    genReqId: (request) => requestIdOf(request.headers),
    requestTimeout: REQUEST_LIMIT_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    forceCloseConnections: "idle",
    return503OnClosing: false,
    trustProxy: (address) => deps.proxies.trusts(address),
    routerOptions: { maxParamLength: 512 },
    clientErrorHandler: (cause, socket) => refuseMalformedHttp(cause, socket),
    http: { maxHeaderSize: MAX_HEADER_BYTES },
    frameworkErrors: (error, request, reply: FastifyReply) =>
      void reply
        .status(400)
        .header("x-request-id", request.id)
        .send(errorBody(toApiError(error), request.id)),
  }).withTypeProvider<TypeBoxTypeProvider>();
  deps.connections.watch(app.server);
  app.setValidatorCompiler(validatorCompiler);
  acceptJson(app);
  app.addHook("onRequest", async (request, reply) => {
    reply.header("x-request-id", request.id);
  });
  app.addHook("onSend", async (request, reply) => {
    // The next request of this client goes to a gateway that stays.
    if (deps.draining.aborted) reply.header("connection", "close");
    const closes = reply.getHeader("connection") === "close" || !reply.raw.shouldKeepAlive;
    if (closes) await discardRequest(request.raw);
  });
  app.addHook("onResponse", async (request, reply) => {
    const { method, url, id: requestId } = request;
    request.log.info(
      {
        requestId,
        method,
        path: url.split("?", 1)[0],
        status: reply.statusCode,
        durationMs: Math.round(reply.elapsedTime),
      },
      "request answered",
    );
  });
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const known = toApiError(error);
    if (known.status >= 500)
      request.log.error({ err: error, requestId: request.id }, "request failed");
    return reply.status(known.status).headers(known.headers).send(errorBody(known, request.id));
  });
  app.setNotFoundHandler(answerUnknownPath);
  void app.register(swagger, OPENAPI);
  void app.register(healthRoutes, { deps });
  void app.register((v1) => registerV1(v1, deps), { prefix: "/v1" });
  void app.register((join) => registerJoin(join, deps), { prefix: "/v1" });
  app.get("/openapi.json", { schema: { hide: true } }, async () => app.swagger());
  return app as unknown as FastifyInstance;
}

async function registerV1(v1: FastifyInstance, deps: Dependencies): Promise<void> {
  const auth = createAuthenticator(createApiKeys(deps));
  v1.addHook("onRoute", requireDeclaredScope);
  v1.addHook("onRequest", (request, _reply, done) =>
    inLane(`address ${ownerOfAddress(request.ip)}`, done),
  );
  v1.addHook("onRequest", async (request, reply) => {
    try {
      await auth.authenticate(request);
    } catch (error) {
      // A failed authentication counts too, against the budget of its address.
      reply.headers(await deps.limiter.take(`address ${request.ip}`));
      throw error;
    }
    deps.connections.know(request.raw);
    const { apiKeyId, scopes } = auth.ownerOf(request);
    // Before the scope is checked: a refused request counts too.
    reply.headers(await deps.limiter.take(`api-key ${apiKeyId}`));
    deps.underWay.begin(`api-key ${apiKeyId}`, reply.raw);
    if (!request.is404) assertScope(request.routeOptions.config.scopes, scopes);
  });
  v1.addHook("onSend", auditor(deps, auth.findOwner));
  v1.setNotFoundHandler(answerUnknownPath);
  // Here and not in `onRequest`: the async context of that hook is lost while a body is read.
  v1.addHook("preValidation", (request, _reply, done) =>
    inLane(`api-key ${auth.ownerOf(request).apiKeyId}`, done),
  );
  v1.addHook("preValidation", refuseUnknownParameters);
  v1.addHook("preHandler", async (request) => {
    const field =
      findUnstorableText(request.query) ??
      findUnstorableText(request.params) ??
      findUnstorableText(request.body);
    if (field !== undefined)
      throw invalidRequest([{ field, message: "holds a NUL character or half a surrogate pair" }]);
  });
  await v1.register(createSandboxRoute, { deps, auth });
  await v1.register(sandboxRoutes, { deps, auth });
  await v1.register(patchSandboxRoute, { deps, auth });
  await v1.register(transitionRoutes, { deps, auth });
  await v1.register(placementRoutes, { deps, auth });
  await v1.register(tokenRoutes, { deps, auth });
  await v1.register(previewLinkRoutes, { deps, auth });
  await v1.register(operationRoutes, { deps, auth });
  await v1.register(templateRoutes, { deps });
  await v1.register(hostRoutes, { deps, auth });
  await v1.register(hostAdmissionRoutes, { deps, auth });
  await v1.register(keyRoutes, { deps, auth });
  await v1.register(organizationRoutes, { deps });
  await v1.register(quotaRoutes, { deps, auth });
  await v1.register(auditRoutes, { deps });
}

/** Registers the one route below /v1 without an API key. Its clients are counted by address. */
async function registerJoin(app: FastifyInstance, deps: Dependencies): Promise<void> {
  const inLaneOfAddress = (request: FastifyRequest, _reply: FastifyReply, done: () => void) =>
    inLane(`address ${ownerOfAddress(request.ip)}`, done);
  app.addHook("onRequest", inLaneOfAddress);
  app.addHook("onRequest", async (request, reply) => {
    reply.headers(await deps.limiter.take(`address ${ownerOfAddress(request.ip)}`));
  });
  // Again: the async context of `onRequest` is lost while a body is read.
  app.addHook("preValidation", inLaneOfAddress);
  app.addHook(
    "onSend",
    auditor(deps, () => undefined),
  );
  await app.register(joinRoute, { deps });
}

/**
 * An `onSend` hook: writes the request, its sender and its outcome to the audit log before the
 * response is sent.
 */
function auditor(
  deps: Dependencies,
  ownerOf: (request: FastifyRequest) => ApiKeyOwner | undefined,
) {
  return async (request: FastifyRequest, reply: FastifyReply, payload: unknown) => {
    const { method, ip: address, id: requestId } = request;
    const { statusCode: status } = reply;
    // Before the payload is parsed, which may be long.
    if (!isAudited(method, status, null)) return;
    const { code, resource } = outcomeOf(payload);
    if (!isAudited(method, status, code)) return;
    const path = request.url.split("?", 1)[0] ?? "";
    const noted = { address, method, path, resource, status, code, requestId };
    await deps.audit.note(auditEntry(ownerOf(request), request.headers, noted));
  };
}

function answerUnknownPath(request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const unknown = unknownResource("path", `${request.method} ${request.url.split("?", 1)[0]}`);
  return reply.status(unknown.status).send(errorBody(unknown, request.id));
}

/** Codes of Fastify that a client can cause. */
const FRAMEWORK_ERRORS: Partial<Record<string, (error: FastifyError) => ApiError>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: (cause) =>
    new ApiError("PAYLOAD_TOO_LARGE", "The body is too large.", {
      cause,
      details: { field: "body" },
    }),
  FST_ERR_CTP_INVALID_JSON_BODY: (cause) =>
    new ApiError("INVALID_JSON", "The body is not valid JSON.", {
      cause,
      details: { field: "body" },
    }),
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: (cause) =>
    new ApiError("INVALID_REQUEST", "The body is not as long as its Content-Length says.", {
      cause,
      details: { field: "Content-Length" },
    }),
};

function toApiError(error: FastifyError): ApiError {
  const own = apiErrorIn(error);
  if (own !== undefined) return own;
  const known = FRAMEWORK_ERRORS[error.code];
  if (known !== undefined) return known(error);
  if (isDatabaseOutage(error)) return serviceUnavailable(error);
  if (error.statusCode !== undefined && error.statusCode < 500)
    return new ApiError({ code: "INVALID_REQUEST", status: error.statusCode }, error.message, {
      cause: error,
    });
  return internalError(error);
}
