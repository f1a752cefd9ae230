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
} from "../errors.ts";
import { requestIdOf } from "../request-id.ts";
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

/** Never rejects: what goes wrong is answered, or cuts the connection. */
export async function carryRequest(
  deps: CarryDependencies,
  door: Endpoint,
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
      door,
      incoming,
      schemeOf(deps.proxies, incoming, door) === "https",
    );
    if (opened !== undefined) return redirect(incoming, response, opened, requestId);
    const admitted = await admit(deps, { door, incoming, answer: response, requestId });
    ({ rateHeaders } = admitted);
    const exchanged = await send(
      deps,
      door,
      admitted,
      incoming,
      { "x-request-id": requestId },
      gone.signal,
    );
    if (exchanged.kind !== "answered") throw failureOf(exchanged);
    const { answer } = exchanged;
    // What a preview answers is the application's own, budget or not.
    const added = { "x-request-id": requestId, ...(isPreview(door) ? {} : rateHeaders) };
    const rawHeaders = asSeenOutside(deps, answer.rawHeaders, door, admitted, incoming);
    response.writeHead(
      answer.statusCode ?? 502,
      answer.statusMessage,
      downstreamHeaders(rawHeaders, added),
    );
    // Headers first: a stream may have nothing more to say for long.
    response.flushHeaders();
    await pipeline(answer, response, { end: false });
    endAnswer(incoming, response);
  } catch (error) {
    if (gone.signal.aborted || response.headersSent) return void response.destroy();
    refuse(incoming, response, asApiError(deps, error, door, requestId), requestId, rateHeaders);
  }
}

/** The same for a WebSocket. */
export async function carryUpgrade(
  deps: CarryDependencies,
  door: Endpoint,
  incoming: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  const requestId = requestIdOf(incoming.headers);
  const gone = new AbortController();
  socket.once("close", () => gone.abort());
  let rateHeaders: Record<string, string> = {};
  try {
    const admitted = await admit(deps, { door, incoming, answer: socket, requestId });
    ({ rateHeaders } = admitted);
    const extra = {
      "x-request-id": requestId,
      connection: "Upgrade",
      upgrade: incoming.headers.upgrade ?? "websocket",
    };
    const exchanged = await send(deps, door, admitted, incoming, extra, gone.signal);
    if (exchanged.kind === "answered")
      await passRefusal(exchanged.answer, socket, { "x-request-id": requestId });
    else if (exchanged.kind === "upgraded")
      join(exchanged, socket, head, takenProtocol(incoming.headers, exchanged.answer.headers));
    else throw failureOf(exchanged);
  } catch (error) {
    if (gone.signal.aborted) return void socket.destroy();
    refuseUpgrade(socket, asApiError(deps, error, door, requestId), requestId, rateHeaders);
  }
}

/**
 * Sends it where the sandbox is. A host that refuses because the sandbox has moved on since the row
 * was read is asked about once more, if there is no body that would be gone; the second look also
 * finds out when it no longer runs at all.
 */
async function send(
  deps: CarryDependencies,
  door: Endpoint,
  admission: EdgeAdmission,
  incoming: IncomingMessage,
  headers: Record<string, string>,
  signal: AbortSignal,
): Promise<ProxyResult> {
  const extra = isPreview(door)
    ? { ...headers, ...applicationHeaders(deps, door, admission, incoming) }
    : headers;
  const sending: Sending = { extra, passesCredentials: admission.passesCredentials, signal };
  const target = await routeTo(deps, door, admission, signal);
  const exchanged = await proxyRequest(incoming, target, sending);
  if (
    exchanged.kind !== "answered" ||
    exchanged.answer.statusCode !== CONFLICT ||
    hasBody(incoming)
  )
    return exchanged;
  const current = await routeAgain(deps, door, admission, signal).catch((error: unknown) => {
    exchanged.answer.destroy();
    throw error;
  });
  if (current.run === target.run) return exchanged;
  exchanged.answer.destroy();
  return await proxyRequest(incoming, current, sending);
}

const isLocal = (door: Endpoint, { view }: Pick<EdgeAdmission, "view">) =>
  isPreview(door) && view.sandbox.previewHost === "localhost";

/**
 * What the application is told of its client. One that is to think that the client is beside it
 * learns nothing of what the client calls it.
 */
function applicationHeaders(
  { proxies }: CarryDependencies,
  door: Endpoint,
  admission: EdgeAdmission,
  incoming: IncomingMessage,
): Record<string, string> {
  const { client, asked } = forwardedHeaders(proxies, incoming, door);
  return { ...client, ...(isLocal(door, admission) ? localHeaders(door, incoming) : asked) };
}

function asSeenOutside(
  { proxies }: CarryDependencies,
  rawHeaders: string[],
  door: Endpoint,
  admission: EdgeAdmission,
  incoming: IncomingMessage,
): string[] {
  if (!isLocal(door, admission)) return rawHeaders;
  return publicLocations(rawHeaders, door, {
    scheme: schemeOf(proxies, incoming, door),
    host: incoming.headers.host ?? "",
  });
}

async function routeAgain(
  deps: CarryDependencies,
  door: Endpoint,
  { isUser }: EdgeAdmission,
  signal: AbortSignal,
): Promise<AgentTarget> {
  const view = await door.find(deps.db);
  if (view === undefined) throw sandboxNotFound(door.name);
  return await routeTo(deps, door, { view, isUser }, signal);
}

function failureOf(exchanged: Exclude<ProxyResult, { kind: "answered" }>): ApiError {
  switch (exchanged.kind) {
    case "unreachable":
      return hostUnreachable(exchanged.cause);
    case "lost":
      return connectionLost(exchanged.cause);
    case "upgraded":
      exchanged.socket.destroy();
      return connectionLost(new Error("the sandbox changed the protocol without being asked to"));
  }
}

function asApiError(
  deps: CarryDependencies,
  error: unknown,
  door: Endpoint,
  requestId: string,
): ApiError {
  const known =
    apiErrorIn(error) ??
    (isDatabaseOutage(error) ? serviceUnavailable(error) : internalError(error));
  if (known.status >= 500 || known.code === "CONNECTION_LOST")
    deps.log.warn(
      { err: known, door: door.name, port: door.port, requestId },
      "request to a sandbox failed",
    );
  return known;
}

/** The guest did not want to upgrade: its answer, as it is, closes the connection. */
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

/** From here on it is bytes both ways, until either side ends. */
function join(
  exchanged: Extract<ProxyResult, { kind: "upgraded" }>,
  client: Duplex,
  head: Buffer,
  added: Record<string, string>,
): void {
  const { answer, socket: guest } = exchanged;
  guest.on("error", () => guest.destroy());
  guest.once("close", () => client.destroy());
  client.once("close", () => guest.destroy());
  client.write(responseHead(answer, [...answer.rawHeaders, ...Object.entries(added).flat()]));
  if (exchanged.head.length > 0) client.write(exchanged.head);
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
