/** Decides who may pass the edge, and where to, from the sandbox's row, for each request. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { SandboxId } from "@torpor/contracts";
import type { ApiKeyOwner, SandboxView } from "@torpor/db";
import { auditEntry, type AuditLog } from "../audit.ts";
import { type ApiKeys, bearerIn } from "../auth/auth.ts";
import {
  ApiError,
  hostUnreachable,
  noSandboxToken,
  sandboxNotFound,
  wrongSandboxToken,
} from "../http/errors.ts";
import type { ConnectionLimits } from "../http/connection-limits.ts";
import type { Guesses } from "../auth/guesses.ts";
import type { PreviewLinks } from "../auth/preview-links.ts";
import type { Proxies } from "../http/proxies.ts";
import type { RateLimiter } from "../auth/rate-limit.ts";
import { scopeMissing } from "../auth/scopes.ts";
import type { TokenGrant, Tokens } from "../auth/tokens.ts";
import type { UnderWay } from "../operations/under-way.ts";
import { type Endpoint, isPreview } from "./endpoint.ts";
import { hasBody } from "./proxy-request.ts";
import type { OpenStreams, Shown } from "./open-streams.ts";
import { sessionOf } from "./preview-session.ts";
import { protocolTokenIn } from "./protocol-token.ts";
import { type HostKeys, type AgentTarget, targetOf } from "./target.ts";
import type { WakeDependencies, Waker } from "./wake.ts";

/**
 * Paths that reveal nothing secret: SDKs and people probe them without a token. A probe by a
 * stranger resumes nothing: it would keep a paused sandbox running, at its owner's cost.
 */
const OPEN_PATHS = new Set(["/health", "/info", "/ping"]);

export interface RouteDependencies extends WakeDependencies {
  tokens: Tokens;
  previewLinks: PreviewLinks;
  linkGuesses: Guesses;
  apiKeys: ApiKeys;
  hostKeys: HostKeys;
  waker: Waker;
  limiter: RateLimiter;
  audit: AuditLog;
  proxies: Proxies;
  underWay: UnderWay;
  connections: Pick<ConnectionLimits, "watch" | "know">;
  streams: Pick<OpenStreams, "watch">;
}

/** A request at an endpoint. */
export interface EdgeRequest {
  endpoint: Endpoint;
  incoming: IncomingMessage;
  /** The response, or the socket of an upgrade. */
  answer: ServerResponse | Duplex;
  requestId: string;
}

export interface EdgeAdmission {
  view: SandboxView;
  /** Headers about the client's budget, for the response. */
  rateHeaders: Record<string, string>;
  /** The client's credentials are for the application, and pass. */
  passesCredentials: boolean;
  /** The client may use the sandbox, and so resume it. */
  isUser: boolean;
}

interface Client {
  /** Name of the budget that the request counts against. */
  budget: string;
  isUser: boolean;
  passesCredentials: boolean;
  /** The credential that the client passed with; undefined: none. */
  shown?: Shown;
}

/**
 * Finds the sandbox of the endpoint and checks the client. Throws the 401, 403, 404 or 429 for a
 * request that may not pass.
 */
export async function admit(deps: RouteDependencies, asked: EdgeRequest): Promise<EdgeAdmission> {
  const { endpoint } = asked;
  const view = await endpoint.find(deps.db);
  if (view === undefined) throw sandboxNotFound(endpoint.name);
  const { sandbox } = view;
  const isPublic = isPreview(endpoint) && sandbox.previewAccess === "public";
  // Visitors of a preview do not use up the budget of the sandbox's owner.
  const visitor = { budget: `preview ${sandbox.id}`, isUser: true, passesCredentials: true };
  const passed: Client = isPublic ? visitor : await authorize(deps, asked, view);
  const { budget, shown, ...client } = passed;
  if (client.isUser && !isPublic) deps.connections.know(asked.incoming);
  const rateHeaders = await deps.limiter.take(budget);
  deps.underWay.begin(budget, asked.answer);
  if (shown !== undefined) deps.streams.watch(asked.answer, shown);
  return { view, rateHeaders, ...client };
}

/**
 * The target of the sandbox as it is now, resumed first if its policy says so. Throws the 409 for a
 * sandbox that does not run, the 503 for an unreachable host, and the error of a failed resume.
 */
export async function routeTo(
  deps: RouteDependencies,
  endpoint: Endpoint,
  { view, isUser }: Pick<EdgeAdmission, "view" | "isUser">,
  gone: AbortSignal,
): Promise<AgentTarget> {
  const wakes = isUser && deps.waker.mayWake(view);
  const awake = wakes ? await deps.waker.wake(endpoint, view, gone) : view;
  const { sandbox, host } = awake;
  if (sandbox.state !== "running") throw notRunning(awake);
  if (host === undefined) throw hostUnreachable(undefined);
  if (host.isRevoked) throw hostUnreachable(new Error(`host ${host.id} was revoked`));
  const target = targetOf(
    { sandboxId: sandbox.id, epoch: sandbox.epoch, host },
    endpoint.port,
    deps.hostKeys,
  );
  if (target instanceof Error) throw hostUnreachable(target);
  return target;
}

/**
 * Accepts the sandbox's own token, a browser's session, or the API key of the sandbox's owner,
 * which the JS SDK falls back to. A client with none of them may read the open paths, and send
 * preflights.
 */
async function authorize(
  deps: RouteDependencies,
  asked: EdgeRequest,
  { sandbox }: SandboxView,
): Promise<Client> {
  const { incoming, endpoint } = asked;
  const mayLook = isOpen(asked) || isPreflight(asked);
  const stranger = mayLook
    ? { budget: `open ${sandbox.id}`, isUser: false, passesCredentials: false }
    : undefined;
  const token = bearerIn(incoming.headers) ?? protocolTokenIn(incoming.headers);
  const user = { budget: `sandbox ${sandbox.id}`, isUser: true, passesCredentials: false };
  const grant = token === undefined ? undefined : await deps.tokens.grantOf(token, sandbox);
  if (grant !== undefined) return { ...user, shown: shownBy(grant, sandbox.id) };
  // Only the cookie is the edge's: the client's other credentials are for the application.
  const session = await sessionOf(deps.previewLinks, sandbox, endpoint, incoming);
  if (session !== undefined) {
    const { expiresAtMs } = session;
    const shown = { ...shownBy(session, sandbox.id), expiresAtMs };
    return { ...user, passesCredentials: true, shown };
  }
  const apiKey = incoming.headers["x-api-key"];
  const owner =
    typeof apiKey === "string"
      ? await deps.apiKeys.find(apiKey, deps.proxies.clientOf(incoming))
      : undefined;
  if (owner !== undefined && owner.organizationId === sandbox.organizationId) {
    const budget = `api-key ${owner.apiKeyId}`;
    const shown = { credential: { apiKeyId: owner.apiKeyId } };
    if (owner.scopes.includes("exec")) return { ...user, budget, shown };
    if (stranger !== undefined) return stranger;
    // The refused request counts, as on the control plane.
    await deps.limiter.take(budget);
    const refusal = scopeMissing("exec", owner.scopes, "Using a sandbox");
    noteRefusal(deps, asked, sandbox.id, refusal, owner);
    throw refusal;
  }
  if (stranger !== undefined) return stranger;
  const refusal =
    token === undefined && apiKey === undefined ? noSandboxToken() : wrongSandboxToken();
  noteRefusal(deps, asked, sandbox.id, refusal, owner);
  throw refusal;
}

function shownBy({ generation, apiKeyId }: TokenGrant, sandboxId: SandboxId): Shown {
  const gotWith = apiKeyId === undefined ? {} : { gotWithKeyId: apiKeyId };
  return { credential: { sandboxId, generation, ...gotWith } };
}

function isOpen({ endpoint, incoming }: EdgeRequest): boolean {
  const isRead = incoming.method === "GET" || incoming.method === "HEAD";
  return (
    isRead && !isPreview(endpoint) && OPEN_PATHS.has((incoming.url ?? "").split("?", 1)[0] ?? "")
  );
}

/** True for a preflight of a browser, which never has a credential: the application responds. */
function isPreflight({ endpoint, incoming }: EdgeRequest): boolean {
  const { origin, "access-control-request-method": method } = incoming.headers;
  return (
    isPreview(endpoint) &&
    incoming.method === "OPTIONS" &&
    origin !== undefined &&
    method !== undefined &&
    !hasBody(incoming)
  );
}

/**
 * Notes a refusal in the audit log, without waiting for the entry. The path within the sandbox is
 * private, and left out.
 */
function noteRefusal(
  deps: RouteDependencies,
  asked: EdgeRequest,
  sandboxId: SandboxId,
  refusal: ApiError,
  owner?: ApiKeyOwner,
): void {
  const { incoming, endpoint, requestId } = asked;
  const noted = {
    address: deps.proxies.clientOf(incoming),
    method: incoming.method ?? "",
    path: `edge:${endpoint.port}`,
    resource: sandboxId,
    status: refusal.status,
    code: refusal.code,
    requestId,
  };
  void deps.audit.note(auditEntry(owner, incoming.headers, noted));
}

/**
 * An immediate 409: a 5xx would be sent again, a hang would last a minute, a 404 would read as
 * "deleted".
 */
function notRunning({ sandbox, operation }: SandboxView): ApiError {
  const details = {
    current_state: sandbox.settledState,
    ...(operation === undefined ? {} : { operation }),
  };
  if (sandbox.state !== sandbox.settledState) {
    return new ApiError(
      "CONFLICT",
      `The sandbox is ${sandbox.state} right now and does not answer until that has ended.`,
      { details },
    );
  }
  switch (sandbox.state) {
    case "creating":
      return new ApiError("SANDBOX_CREATING", "The sandbox is still being created.", { details });
    case "stopped":
      return new ApiError("SANDBOX_STOPPED", "The sandbox is stopped. Start it first.", {
        details,
      });
    case "paused":
      return new ApiError("CONFLICT", "The sandbox is paused. Resume it first.", { details });
    default:
      return new ApiError(
        "CONFLICT",
        `The sandbox is in state ${sandbox.state} and cannot answer.`,
        { details },
      );
  }
}
