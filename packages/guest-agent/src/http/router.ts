/** One table of routes: exact paths, and paths with `:name` segments. */
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import { AgentError, invalidRequest } from "../errors.ts";
import type { Body } from "../fields.ts";

export interface RoutedRequest {
  query: URLSearchParams;
  params: Record<string, string>;
  headers: IncomingHttpHeaders;
  /** The JSON body; empty for a route that reads the body itself. */
  body: Body;
  /** For a route with `readsBody`. */
  incoming: IncomingMessage;
  /** Aborted when the client leaves, not when a pause cuts it off. */
  signal: AbortSignal;
}

export interface Route {
  method: string;
  path: string;
  /** `open`: no key. `control`: calls of the host, allowed before a key is set. */
  access?: "open" | "control";
  /** The handler reads the body as a stream. */
  readsBody?: boolean;
  /** A result that is not a Reply is sent as JSON with 200. */
  handle(request: RoutedRequest): unknown;
}

export interface Match {
  route: Route;
  params: Record<string, string>;
}

export class Router {
  private readonly exact = new Map<string, Route>();
  private readonly patterns: { route: Route; segments: string[] }[] = [];
  readonly routes: readonly Route[];

  constructor(routes: readonly Route[]) {
    this.routes = routes;
    for (const route of routes) {
      if (route.path.includes(":")) this.patterns.push({ route, segments: route.path.split("/") });
      else this.exact.set(`${route.method} ${route.path}`, route);
    }
  }

  /** Throws 404 or 405 when no route matches. The GET route of a path also handles HEAD. */
  match(method: string, path: string): Match {
    const asked = method === "HEAD" ? "GET" : method;
    const clean = path.length > 1 ? path.replace(/\/+$/, "") : path;
    const found = this.find(asked, clean);
    if (found !== undefined) return found;
    if (clean === "/desktop" || clean.startsWith("/desktop/"))
      throw new AgentError(404, "DESKTOP_NOT_AVAILABLE", "this template has no desktop");
    if (this.isKnown(clean))
      throw new AgentError(405, "METHOD_NOT_ALLOWED", `${method} is not allowed on ${clean}`);
    throw new AgentError(404, "ENDPOINT_NOT_FOUND", `there is no ${method} ${clean} in this agent`);
  }

  private find(method: string, path: string): Match | undefined {
    const route = this.exact.get(`${method} ${path}`);
    if (route !== undefined) return { route, params: {} };
    for (const pattern of this.patterns) {
      const params = pattern.route.method === method ? paramsOf(pattern.segments, path) : undefined;
      if (params !== undefined) return { route: pattern.route, params };
    }
    return undefined;
  }

  private isKnown(path: string): boolean {
    return this.routes.some(
      (route) => route.path === path || paramsOf(route.path.split("/"), path) !== undefined,
    );
  }
}

function paramsOf(pattern: string[], path: string): Record<string, string> | undefined {
  const segments = path.split("/");
  if (segments.length !== pattern.length) return undefined;
  const params: Record<string, string> = {};
  for (const [at, expected] of pattern.entries()) {
    const segment = segments[at] ?? "";
    if (!expected.startsWith(":")) {
      if (segment !== expected) return undefined;
    } else if (segment === "") return undefined;
    else params[expected.slice(1)] = decoded(segment);
  }
  return params;
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw invalidRequest("the path holds a malformed % escape");
  }
}

/** The path and query of a request line. Throws 400 for a malformed one. */
export function parseUrl(incoming: IncomingMessage): URL {
  try {
    const url = new URL(`http://guest${incoming.url ?? "/"}`);
    // Throws for bytes that are not UTF-8: they would otherwise be replaced silently.
    decodeURIComponent(url.search.replaceAll(/%(?![0-9a-fA-F]{2})/g, "%25"));
    return url;
  } catch {
    throw invalidRequest("the request's path or query is malformed, or not UTF-8");
  }
}
