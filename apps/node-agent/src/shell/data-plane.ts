/**
 * The host's door for the edge: checks who asks and for which run of which sandbox, then passes the request on to the guest agent, streaming both ways. Headers in
 * packages/contracts (data-plane.ts). No 5xx for a state conflict: SDKs would send the request again.
 */
import { timingSafeEqual } from "node:crypto";
import {
  createServer,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import { connect, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { DATA_PLANE_HEADERS, GUEST_AGENT_KEY_HEADER, GUEST_AGENT_PORT } from "@torpor/contracts";

interface GuestRoute {
  host: string;
  port: number;
  agentKey: string;
}

export type FindRoute = (sandboxId: string, epoch: number) => Promise<GuestRoute | undefined>;

interface Refusal {
  status: number;
  code: string;
  message: string;
}

/** The guest agent's control calls: the host's own, never a client's. */
const HOST_ONLY_PATHS = "/_torpor";
const INTERNAL_HEADERS = new Set<string>([...Object.values(DATA_PLANE_HEADERS), "authorization", "x-api-key"]);

export function createDataPlane(hostKey: string, findRoute: FindRoute): Server {
  const server = createServer((incoming, response) => {
    void admit(incoming, hostKey, findRoute).then((admitted) => {
      if ("code" in admitted) refuse(response, admitted);
      else forward(incoming, response, admitted);
    });
  });
  server.on("upgrade", (incoming: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on("error", () => socket.destroy());
    void admit(incoming, hostKey, findRoute).then((admitted) => {
      if ("code" in admitted) socket.end(`HTTP/1.1 ${admitted.status} Refused\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
      else tunnel(incoming, socket, head, admitted);
    });
  });
  // Executions and uploads take as long as they take; the edge and the guest have limits of their own.
  server.requestTimeout = 0;
  server.headersTimeout = 30_000;
  return server;
}

async function admit(incoming: IncomingMessage, hostKey: string, findRoute: FindRoute): Promise<GuestRoute | Refusal> {
  const given = Buffer.from(String(incoming.headers[DATA_PLANE_HEADERS.hostKey] ?? ""));
  const expected = Buffer.from(hostKey);
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
    return { status: 401, code: "INVALID_TOKEN", message: "the host data key is missing or wrong" };
  }
  if ((incoming.url ?? "").startsWith(HOST_ONLY_PATHS))
    return { status: 404, code: "ENDPOINT_NOT_FOUND", message: "there is no such path in this sandbox's agent" };
  const sandboxId = String(incoming.headers[DATA_PLANE_HEADERS.sandboxId] ?? "");
  const epoch = Number(incoming.headers[DATA_PLANE_HEADERS.epoch]);
  const port = Number(incoming.headers[DATA_PLANE_HEADERS.port] ?? GUEST_AGENT_PORT);
  const route = await findRoute(sandboxId, epoch);
  if (route === undefined || port !== GUEST_AGENT_PORT) {
    return { status: 409, code: "SANDBOX_NOT_RUNNING_HERE", message: `Sandbox ${sandboxId} does not run on this host at epoch ${epoch}.` };
  }
  return route;
}

function forward(incoming: IncomingMessage, response: ServerResponse, route: GuestRoute): void {
  const upstream = httpRequest({
    host: route.host,
    port: route.port,
    method: incoming.method,
    path: incoming.url,
    headers: guestHeaders(incoming.headers, route),
    agent: false,
  });
  upstream.once("response", (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.headers);
    answer.pipe(response);
  });
  upstream.once("error", (error) => {
    if (response.headersSent) response.destroy();
    else refuse(response, { status: 503, code: "SERVICE_UNAVAILABLE", message: `The sandbox's agent cannot be reached: ${error.message}` });
  });
  response.once("close", () => upstream.destroy());
  incoming.pipe(upstream);
}

function tunnel(incoming: IncomingMessage, socket: Duplex, head: Buffer, route: GuestRoute): void {
  const upstream: Socket = connect(route.port, route.host, () => {
    const headers = Object.entries({
      ...guestHeaders(incoming.headers, route),
      connection: "Upgrade",
      upgrade: incoming.headers.upgrade ?? "websocket",
    });
    upstream.write(
      `${incoming.method} ${incoming.url} HTTP/1.1\r\n${headers.map(([name, value]) => `${name}: ${String(value)}\r\n`).join("")}\r\n`,
    );
    if (head.length > 0) upstream.write(head);
    upstream.pipe(socket).pipe(upstream);
  });
  upstream.once("error", () => socket.destroy());
  upstream.once("close", () => socket.destroy());
  socket.once("close", () => upstream.destroy());
}

function guestHeaders(headers: IncomingHttpHeaders, route: GuestRoute): IncomingHttpHeaders {
  const kept = Object.fromEntries(Object.entries(headers).filter(([name]) => !INTERNAL_HEADERS.has(name)));
  return { ...kept, host: `${route.host}:${route.port}`, [GUEST_AGENT_KEY_HEADER]: route.agentKey };
}

function refuse(response: ServerResponse, refusal: Refusal): void {
  const body = { error: refusal.message, message: refusal.message, code: refusal.code, timestamp: new Date().toISOString() };
  const text = Buffer.from(JSON.stringify(body));
  response.writeHead(refusal.status, { "content-type": "application/json", "content-length": text.length, connection: "close" });
  response.end(text);
}
