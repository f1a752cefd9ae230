/**
 * The agent's HTTP server: passes requests to routes, sends their results, and turns errors into
 * bodies.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { ADDED_HEADER_BYTES, MAX_HEADER_BYTES } from "@torpor/contracts/header-bytes";
import { asAgentError, errorBody } from "../errors.ts";
import { randomId } from "../random.ts";
import { authorize, type KeyHolder } from "./access.ts";
import { type BodyLimits, withBody } from "./body.ts";
import type { Connections } from "./connections.ts";
import { jsonReply, Reply, send } from "./reply.ts";
import { type Match, parseUrl, type Router } from "./router.ts";

export interface ServerDeps {
  router: Router;
  keys: KeyHolder;
  bodyLimits: BodyLimits;
  connections: Connections;
  /**
   * Called when a request has a route and is authorized. The returned function is called at the end
   * of the request.
   */
  begin(match: Match): (outcome: { isError: boolean }) => void;
}

export function createAgentServer(deps: ServerDeps): Server {
  const maxHeaderSize = MAX_HEADER_BYTES + ADDED_HEADER_BYTES;
  const server = createServer({ maxHeaderSize }, (incoming, response) => {
    serve(deps, incoming, response).catch((error: unknown) => {
      asAgentError(error);
      response.destroy();
    });
  });
  // No limit: an execution or an upload may take any time.
  server.requestTimeout = 0;
  server.headersTimeout = 30_000;
  server.keepAliveTimeout = 5_000;
  deps.connections.watch(server);
  return server;
}

async function serve(
  deps: ServerDeps,
  incoming: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const requestId = requestIdOf(incoming);
  response.on("error", () => {});
  const reply = await answer(deps, incoming, response).catch((error: unknown) => {
    const known = asAgentError(error);
    return jsonReply(known.status, errorBody(known, requestId), known.headers);
  });
  await send(incoming, response, requestId, reply);
}

async function answer(
  deps: ServerDeps,
  incoming: IncomingMessage,
  response: ServerResponse,
): Promise<Reply> {
  const url = parseUrl(incoming);
  const match = deps.router.match(incoming.method ?? "GET", url.pathname);
  const { route, params } = match;
  authorize(route.access, deps.keys, incoming);
  const end = deps.begin(match);
  let isError = true;
  try {
    const request = {
      query: url.searchParams,
      params,
      headers: incoming.headers,
      incoming,
      signal: leaving(deps, response),
    };
    const result = route.readsBody
      ? await route.handle({ ...request, body: {} })
      : await withBody(
          incoming,
          deps.bodyLimits,
          async (body) => await route.handle({ ...request, body }),
        );
    isError = false;
    return result instanceof Reply ? result : jsonReply(200, result);
  } finally {
    end({ isError });
  }
}

/** Aborted when the client leaves before it has its response. */
function leaving({ connections }: ServerDeps, response: ServerResponse): AbortSignal {
  const left = new AbortController();
  const { socket } = response;
  response.once("close", () => {
    if (!response.writableFinished && socket !== null && connections.hasLeft(socket)) left.abort();
  });
  return left.signal;
}

export function requestIdOf(incoming: IncomingMessage): string {
  const given = incoming.headers["x-request-id"];
  return typeof given === "string" && /^[\w.:-]{1,128}$/.test(given) ? given : randomId(16);
}
