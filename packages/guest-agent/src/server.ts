/**
 * The agent's HTTP server: one table of routes, JSON in and out, one place where errors become bodies.
 *
 * Everything but the open routes needs the agent key once the host has set one; before that only the host's control routes answer, so that no user request reaches a guest
 * whose identity has not been fixed after a restore.
 */
import { randomUUID, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { AgentError, invalidRequest } from "./errors.ts";

export interface Request {
  query: URLSearchParams;
  body: Record<string, unknown>;
  /** Ends when the client goes away. */
  signal: AbortSignal;
}

export interface Route {
  method: string;
  path: string;
  /** `open`: no key. `control`: the host's own calls, allowed before a key is set. */
  access?: "open" | "control";
  handle(request: Request): unknown;
}

export interface KeyHolder {
  agentKey: string | undefined;
}

const KEY_HEADER = "x-torpor-agent-key";

export function createAgentServer(
  routes: readonly Route[],
  keys: KeyHolder,
  options: { maxBodyBytes: number; count(error: boolean): void },
): Server {
  const table = new Map(routes.map((route) => [`${route.method} ${route.path}`, route]));
  const paths = new Set(routes.map((route) => route.path));
  const server = createServer((incoming, response) => {
    const requestId = headerOf(incoming, "x-request-id") ?? randomUUID();
    answer(table, paths, keys, options.maxBodyBytes, incoming, response)
      .then((body) => {
        options.count(false);
        send(response, 200, requestId, body);
      })
      .catch((error: unknown) => {
        options.count(true);
        const known = error instanceof AgentError ? error : new AgentError(500, "INTERNAL_ERROR", "the agent failed; see its log");
        if (known !== error) process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
        send(response, known.status, requestId, errorBody(known, requestId));
      });
  });
  server.requestTimeout = 0;
  server.keepAliveTimeout = 5_000;
  return server;
}

async function answer(
  table: ReadonlyMap<string, Route>,
  paths: ReadonlySet<string>,
  keys: KeyHolder,
  maxBodyBytes: number,
  incoming: IncomingMessage,
  response: ServerResponse,
): Promise<unknown> {
  const url = new URL(incoming.url ?? "/", "http://guest");
  const route = table.get(`${incoming.method} ${url.pathname}`) ?? table.get(`${incoming.method} ${url.pathname.replace(/(.)\/$/, "$1")}`);
  if (route === undefined && url.pathname.startsWith("/desktop/")) {
    throw new AgentError(404, "DESKTOP_NOT_AVAILABLE", "this template has no desktop");
  }
  if (route === undefined && paths.has(url.pathname))
    throw new AgentError(405, "METHOD_NOT_ALLOWED", `${incoming.method} is not allowed on ${url.pathname}`);
  if (route === undefined) throw new AgentError(404, "ENDPOINT_NOT_FOUND", `there is no ${incoming.method} ${url.pathname} in this agent`);
  authorize(route, keys, headerOf(incoming, KEY_HEADER));
  const aborted = new AbortController();
  response.on("close", () => aborted.abort());
  return await route.handle({ query: url.searchParams, body: await readBody(incoming, maxBodyBytes), signal: aborted.signal });
}

function authorize(route: Route, keys: KeyHolder, given: string | undefined): void {
  if (route.access === "open") return;
  if (keys.agentKey === undefined) {
    if (route.access === "control") return;
    throw new AgentError(401, "AUTHENTICATION_REQUIRED", "this guest has not been given its identity yet");
  }
  const expected = Buffer.from(keys.agentKey);
  const actual = Buffer.from(given ?? "");
  if (expected.length !== actual.length || !timingSafeEqual(expected, actual))
    throw new AgentError(401, "INVALID_TOKEN", "the agent key is missing or wrong");
}

async function readBody(incoming: IncomingMessage, maxBytes: number): Promise<Record<string, unknown>> {
  const tooLarge = () => new AgentError(413, "INVALID_REQUEST", `the body is larger than ${maxBytes} bytes`);
  if (Number(incoming.headers["content-length"] ?? 0) > maxBytes) throw tooLarge();
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxBytes) throw tooLarge();
    chunks.push(chunk);
  }
  if (size === 0) return {};
  let value: unknown;
  try {
    value = JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch (cause) {
    throw new AgentError(400, "INVALID_JSON", "the body is not valid JSON", { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalidRequest("the body must be a JSON object");
  return value as Record<string, unknown>;
}

function errorBody(error: AgentError, requestId: string) {
  return {
    error: error.message,
    message: error.message,
    code: error.code,
    ...(error.path === undefined ? {} : { path: error.path }),
    request_id: requestId,
    timestamp: new Date().toISOString(),
  };
}

function send(response: ServerResponse, status: number, requestId: string, body: unknown): void {
  if (response.destroyed || response.headersSent) return;
  const text = Buffer.from(JSON.stringify(body ?? {}));
  response.writeHead(status, { "content-type": "application/json", "content-length": text.length, "x-request-id": requestId });
  response.end(text);
}

function headerOf(incoming: IncomingMessage, name: string): string | undefined {
  const value = incoming.headers[name];
  return typeof value === "string" ? value : undefined;
}
