/** Who may pass the edge, and where to: decided from the sandbox's row, for each request anew. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { ApiKeyOwner, SandboxView } from "@torpor/db";
import { auditEntry, type AuditLog } from "../audit.ts";
import { type ApiKeys, bearerIn } from "../auth.ts";
import {
  ApiError,
  hostUnreachable,
  noSandboxToken,
  sandboxNotFound,
  wrongSandboxToken,
} from "../errors.ts";
import type { ConnectionLimits } from "../connection-limits.ts";
import type { Guesses } from "../guesses.ts";
import type { PreviewLinks } from "../preview-links.ts";
import type { Proxies } from "../proxies.ts";
import type { RateLimiter } from "../rate-limit.ts";
import { scopeMissing } from "../scopes.ts";
import type { TokenGrant, Tokens } from "../tokens.ts";
import type { UnderWay } from "../under-way.ts";
import { type Endpoint, isPreview } from "./endpoint.ts";
import { hasBody } from "./proxy-request.ts";
import type { OpenStreams, Shown } from "./open-streams.ts";
import { sessionOf } from "./preview-session.ts";
import { protocolTokenIn } from "./protocol-token.ts";
import { type HostKeys, type AgentTarget, targetOf } from "./target.ts";
import type { WakeDependencies, Waker } from "./wake.ts";

/**
 * They say nothing that needs a token; SDKs and people probe them without. A probe by a stranger
 * wakes nothing: it would keep a paused sandbox running, at its owner's cost.
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

/** A request at a door. */
export interface EdgeRequest {
  door: Endpoint;
  incoming: IncomingMessage;
  /** What answers it. */
  answer: ServerResponse | Duplex;
  requestId: string;
}

export interface EdgeAdmission {
  view: SandboxView;
  /** Of the client's budget, for the answer. */
  rateHeaders: Record<string, string>;
  /** The client's credentials are the application's own affair, and pass. */
  passesCredentials: boolean;
  /** It may use the sandbox, and so resume it. */
  isUser: boolean;
}

interface Client {
  /** Whose requests are counted. */
  budget: string;
  isUser: boolean;
  passesCredentials: boolean;
  /** By which it passed; undefined: by nothing. */
  shown?: Shown;
}

/**
 * Finds the sandbox behind the door and judges the client. Throws the 401, 403, 404 or 429 of a
 * request that may not pass.
 */
export async function admit(deps: RouteDependencies, asked: EdgeRequest): Promise<EdgeAdmission> {
  const { door } = asked;
  const view = await door.find(deps.db);
  if (view === undefined) throw sandboxNotFound(door.name);
  const { sandbox } = view;
  const isPublic = isPreview(door) && sandbox.previewAccess === "public";
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
 * Where it is now, resumed first if its policy says so. Throws the 409 of a sandbox that does not
 * answer, and what a resume that fails is answered with.
 */
export async function routeTo(
  deps: RouteDependencies,
  door: Endpoint,
  { view, isUser }: Pick<EdgeAdmission, "view" | "isUser">,
  gone: AbortSignal,
): Promise<AgentTarget> {
  const wakes = isUser && deps.waker.mayWake(view);
  const awake = wakes ? await deps.waker.wake(door, view, gone) : view;
  const { sandbox, host } = awake;
  if (sandbox.state !== "running") throw notRunning(awake);
  if (host === undefined) throw hostUnreachable(undefined);
  if (host.isRevoked) throw hostUnreachable(new Error(`host ${host.id} was revoked`));
  const target = targetOf(
    { sandboxId: sandbox.id, epoch: sandbox.epoch, host },
    door.port,
    deps.hostKeys,
  );
  if (target instanceof Error) throw hostUnreachable(target);
  return target;
}

/**
 * The sandbox's own token, what a browser has of it, or the API key of its owner, which the JS SDK
 * falls back to. Who has none of them may look at the open paths, and ask what a page may ask.
 */
async function authorize(
  deps: RouteDependencies,
  asked: EdgeRequest,
  { sandbox }: SandboxView,
): Promise<Client> {
  const { incoming, door } = asked;
  const mayLook = isOpen(asked) || isPreflight(asked);
  const stranger = mayLook
    ? { budget: `open ${sandbox.id}`, isUser: false, passesCredentials: false }
    : undefined;
  const token = bearerIn(incoming.headers) ?? protocolTokenIn(incoming.headers);
  const user = { budget: `sandbox ${sandbox.id}`, isUser: true, passesCredentials: false };
  const grant = token === undefined ? undefined : await deps.tokens.grantOf(token, sandbox);
  if (grant !== undefined) return { ...user, shown: shownBy(grant, sandbox.id) };
  // The cookie is what it has of ours: its other credentials are for the application.
  const session = await sessionOf(deps.previewLinks, sandbox, door, incoming);
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
    // It counts, as it does on the control plane.
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

function shownBy({ generation, apiKeyId }: TokenGrant, sandboxId: string): Shown {
  const gotWith = apiKeyId === undefined ? {} : { gotWithKeyId: apiKeyId };
  return { credential: { sandboxId, generation, ...gotWith } };
}

function isOpen({ door, incoming }: EdgeRequest): boolean {
  const isRead = incoming.method === "GET" || incoming.method === "HEAD";
  return isRead && !isPreview(door) && OPEN_PATHS.has((incoming.url ?? "").split("?", 1)[0] ?? "");
}

/**
 * A browser asks whether it may send a request, and never with a credential: the application
 * answers.
 */
function isPreflight({ door, incoming }: EdgeRequest): boolean {
  const { origin, "access-control-request-method": method } = incoming.headers;
  return (
    isPreview(door) &&
    incoming.method === "OPTIONS" &&
    origin !== undefined &&
    method !== undefined &&
    !hasBody(incoming)
  );
}

/** The refusal does not wait for its entry. The path within the sandbox is nobody else's affair. */
function noteRefusal(
  deps: RouteDependencies,
  asked: EdgeRequest,
  sandboxId: string,
  refusal: ApiError,
  owner?: ApiKeyOwner,
): void {
  const { incoming, door, requestId } = asked;
  const noted = {
    address: deps.proxies.clientOf(incoming),
    method: incoming.method ?? "",
    path: `edge:${door.port}`,
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
