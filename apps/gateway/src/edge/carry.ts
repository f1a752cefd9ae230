/** Carries one request, or one upgraded connection, from the edge to the sandbox and back. */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import { endAnswer } from "@torpor/service/end-answer";
import type { FastifyBaseLogger } from "fastify";
import { isDatabaseOutage } from "../database-outage.ts";
import {
  type ApiError,
  apiErrorIn,
  connectionLost,
  hostUnreachable,
  internalError,
  sandboxNotFound,
  serviceUnavailable,
} from "../http/errors.ts";
import { requestIdOf } from "../http/request-id.ts";
import { type Endpoint, isPreview } from "./endpoint.ts";
import { type ProxyResult, proxyRequest, hasBody, type Sending } from "./proxy-request.ts";
import { downstreamHeaders, forwardedHeaders, schemeOf } from "./headers.ts";
import { localHeaders, publicLocations } from "./preview-host.ts";
import { openLink } from "./preview-session.ts";
import { takenProtocol } from "./protocol-token.ts";
import { redirect, refuse, refuseUpgrade } from "./refusal.ts";
import { type EdgeAdmission, admit, type RouteDependencies, routeTo } from "./route.ts";
import type { AgentTarget } from "./target.ts";

export type CarryDependencies = RouteDependencies & { log: FastifyBaseLogger };

const CONFLICT = 409;

/** Never rejects: a failure becomes a response, or cuts the connection. */
export async function carryRequest(
  deps: CarryDependencies,
  endpoint: Endpoint,
  incoming: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const requestId = requestIdOf(incoming.headers);
  const gone = new AbortController();
  response.once("close", () => gone.abort());
  let rateHeaders: Record<string, string> = {};
  try {
    const opened = await openLink(
      deps,
      endpoint,
      incoming,
      schemeOf(deps.proxies, incoming, endpoint) === "https",
    );
    if (opened !== undefined) return redirect(incoming, response, opened, requestId);
    const admitted = await admit(deps, { endpoint, incoming, answer: response, requestId });
    ({ rateHeaders } = admitted);
    const proxied = await send(
      deps,
      endpoint,
      admitted,
      incoming,
      { "x-request-id": requestId },
      gone.signal,
    );
    if (proxied.kind !== "answered") throw failureOf(proxied);
    const { answer } = proxied;
    // A preview's response is the application's own, budget or not.
    const added = { "x-request-id": requestId, ...(isPreview(endpoint) ? {} : rateHeaders) };
    const rawHeaders = asSeenOutside(deps, answer.rawHeaders, endpoint, admitted, incoming);
    response.writeHead(
      answer.statusCode ?? 502,
      answer.statusMessage,
      downstreamHeaders(rawHeaders, added),
    );
    // Headers first: a stream may send no body for long.
    response.flushHeaders();
    await pipeline(answer, response, { end: false });
    endAnswer(incoming, response);
  } catch (error) {
    if (gone.signal.aborted || response.headersSent) return void response.destroy();
    refuse(
      incoming,
      response,
      asApiError(deps, error, endpoint, requestId),
      requestId,
      rateHeaders,
    );
  }
}

/** The same for a WebSocket. */
export async function carryUpgrade(
  deps: CarryDependencies,
  endpoint: Endpoint,
  incoming: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  const requestId = requestIdOf(incoming.headers);
  const gone = new AbortController();
  socket.once("close", () => gone.abort());
  let rateHeaders: Record<string, string> = {};
  try {
    const admitted = await admit(deps, { endpoint, incoming, answer: socket, requestId });
    ({ rateHeaders } = admitted);
    const extra = {
      "x-request-id": requestId,
      connection: "Upgrade",
      upgrade: incoming.headers.upgrade ?? "websocket",
    };
    const proxied = await send(deps, endpoint, admitted, incoming, extra, gone.signal);
    if (proxied.kind === "answered")
      await passRefusal(proxied.answer, socket, { "x-request-id": requestId });
    else if (proxied.kind === "upgraded")
      join(proxied, socket, head, takenProtocol(incoming.headers, proxied.answer.headers));
    else throw failureOf(proxied);
  } catch (error) {
    if (gone.signal.aborted) return void socket.destroy();
    refuseUpgrade(socket, asApiError(deps, error, endpoint, requestId), requestId, rateHeaders);
  }
}

/**
 * Sends the request to the sandbox's host. If the host refuses because the sandbox has moved since
 * its row was read, the row is read once more, unless the request had a body, which is gone. The
 * second read also finds that the sandbox no longer runs.
 */
async function send(
  deps: CarryDependencies,
  endpoint: Endpoint,
  admission: EdgeAdmission,
  incoming: IncomingMessage,
  headers: Record<string, string>,
  signal: AbortSignal,
): Promise<ProxyResult> {
  const extra = isPreview(endpoint)
    ? { ...headers, ...applicationHeaders(deps, endpoint, admission, incoming) }
    : headers;
  const sending: Sending = { extra, passesCredentials: admission.passesCredentials, signal };
  const target = await routeTo(deps, endpoint, admission, signal);
  const proxied = await proxyRequest(incoming, target, sending);
  if (proxied.kind !== "answered" || proxied.answer.statusCode !== CONFLICT || hasBody(incoming))
    return proxied;
  const current = await routeAgain(deps, endpoint, admission, signal).catch((error: unknown) => {
    proxied.answer.destroy();
    throw error;
  });
  if (current.run === target.run) return proxied;
  proxied.answer.destroy();
  return await proxyRequest(incoming, current, sending);
}

const isLocal = (endpoint: Endpoint, { view }: Pick<EdgeAdmission, "view">) =>
  isPreview(endpoint) && view.sandbox.previewHost === "localhost";

/**
 * Headers about the client for the application. With `preview_host: localhost` they do not have the
 * name that the client uses.
 */
function applicationHeaders(
  { proxies }: CarryDependencies,
  endpoint: Endpoint,
  admission: EdgeAdmission,
  incoming: IncomingMessage,
): Record<string, string> {
  const { client, asked } = forwardedHeaders(proxies, incoming, endpoint);
  return {
    ...client,
    ...(isLocal(endpoint, admission) ? localHeaders(endpoint, incoming) : asked),
  };
}

function asSeenOutside(
  { proxies }: CarryDependencies,
  rawHeaders: string[],
  endpoint: Endpoint,
  admission: EdgeAdmission,
  incoming: IncomingMessage,
): string[] {
  if (!isLocal(endpoint, admission)) return rawHeaders;
  return publicLocations(rawHeaders, endpoint, {
    scheme: schemeOf(proxies, incoming, endpoint),
    host: incoming.headers.host ?? "",
  });
}

async function routeAgain(
  deps: CarryDependencies,
  endpoint: Endpoint,
  { isUser }: EdgeAdmission,
  signal: AbortSignal,
): Promise<AgentTarget> {
  const view = await endpoint.find(deps.db);
  if (view === undefined) throw sandboxNotFound(endpoint.name);
  return await routeTo(deps, endpoint, { view, isUser }, signal);
}

function failureOf(proxied: Exclude<ProxyResult, { kind: "answered" }>): ApiError {
  switch (proxied.kind) {
    case "unreachable":
      return hostUnreachable(proxied.cause);
    case "lost":
      return connectionLost(proxied.cause);
    case "upgraded":
      proxied.socket.destroy();
      return connectionLost(new Error("the sandbox changed the protocol without being asked to"));
  }
}

function asApiError(
  deps: CarryDependencies,
  error: unknown,
  endpoint: Endpoint,
  requestId: string,
): ApiError {
  const known =
    apiErrorIn(error) ??
    (isDatabaseOutage(error) ? serviceUnavailable(error) : internalError(error));
  if (known.status >= 500 || known.code === "CONNECTION_LOST")
    deps.log.warn(
      { err: known, endpoint: endpoint.name, port: endpoint.port, requestId },
      "request to a sandbox failed",
    );
  return known;
}

/** Passes the response of a guest that refuses the upgrade, and closes the connection. */
async function passRefusal(
  answer: IncomingMessage,
  socket: Duplex,
  added: Record<string, string>,
): Promise<void> {
  socket.write(
    responseHead(answer, [...downstreamHeaders(answer.rawHeaders, added), "connection", "close"]),
  );
  await pipeline(answer, socket);
}

/** Copies bytes both ways, until either side ends. */
function join(
  proxied: Extract<ProxyResult, { kind: "upgraded" }>,
  client: Duplex,
  head: Buffer,
  added: Record<string, string>,
): void {
  const { answer, socket: guest } = proxied;
  guest.on("error", () => guest.destroy());
  guest.once("close", () => client.destroy());
  client.once("close", () => guest.destroy());
  client.write(responseHead(answer, [...answer.rawHeaders, ...Object.entries(added).flat()]));
  if (proxied.head.length > 0) client.write(proxied.head);
  if (head.length > 0) guest.write(head);
  guest.pipe(client);
  client.pipe(guest);
}

function responseHead(answer: IncomingMessage, rawHeaders: string[]): string {
  const status = answer.statusCode ?? 502;
  const lines = [`HTTP/1.1 ${status} ${answer.statusMessage ?? STATUS_CODES[status] ?? ""}`];
  for (let at = 0; at + 1 < rawHeaders.length; at += 2)
    lines.push(`${rawHeaders[at]}: ${rawHeaders[at + 1]}`);
  return `${lines.join("\r\n")}\r\n\r\n`;
}
