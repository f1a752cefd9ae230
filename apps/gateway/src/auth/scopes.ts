/**
 * The scope of an API key that each route below /v1 needs: declared in the route's `config`,
 * enforced by one hook (app.ts).
 *
 * SC1  A route that declares none cannot be registered.
 * SC2  A scope implies no other. An operator's key that is to read sandboxes needs `read` too.
 */
import type { Scope } from "@torpor/contracts";
import type { RouteOptions } from "fastify";
import { ApiError } from "../http/errors.ts";

/** Any of these scopes is enough; a refusal names the first. */
export type NeededScopes = readonly [Scope, ...Scope[]];

declare module "fastify" {
  interface FastifyContextConfig {
    scopes?: NeededScopes;
  }
}

/** For a route's `config`. */
export const needs = (...scopes: [Scope, ...Scope[]]) => ({ scopes });

/** The scope that a key with `owned` lacks; undefined when it may pass. */
export function findMissingScope(needed: NeededScopes, owned: readonly Scope[]): Scope | undefined {
  return needed.some((scope) => owned.includes(scope)) ? undefined : needed[0];
}

/**
 * Throws the 403 for a key without a needed scope. A route without a declaration refuses every key.
 */
export function assertScope(needed: NeededScopes | undefined, owned: readonly Scope[]): void {
  if (needed === undefined) throw new Error("a route below /v1 declares no scope");
  const missing = findMissingScope(needed, owned);
  if (missing !== undefined) throw scopeMissing(missing, owned);
}

/** The SDKs pass a 403 on as it is, and do not retry (docs/api.md, "Keys"). */
export const scopeMissing = (missing: Scope, owned: readonly Scope[], what = "This request") =>
  new ApiError(
    "SCOPE_MISSING",
    `${what} needs the scope '${missing}', and this API key has ${owned.join(", ")}.`,
    { details: { missing_scope: missing, scopes: owned } },
  );

/** An `onRoute` hook: refuses a route without a scope, and describes the scope of the others. */
export function requireDeclaredScope(route: RouteOptions): void {
  const needed = route.config?.scopes;
  if (needed === undefined)
    throw new Error(`${String(route.method)} ${route.url} declares no scope: set config: needs(…)`);
  const security = needed.flatMap((scope) => [{ apiKey: [scope] }, { bearer: [scope] }]);
  route.schema = { ...route.schema, security };
}
