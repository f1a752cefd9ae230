import type { IdempotencyMemory } from "../execution/idempotency.ts";
import type { Route } from "../http/router.ts";

/**
 * /cache: the agent's only cache is its memory of finished requests that had an Idempotency-Key.
 * The result of code never comes from a cache.
 */
export function cacheRoutes(idempotency: IdempotencyMemory): Route[] {
  const stats = () => ({ cache: idempotency.stats(), timestamp: new Date().toISOString() });
  return [
    { method: "GET", path: "/cache", handle: stats },
    { method: "GET", path: "/cache/stats", handle: stats },
    {
      method: "POST",
      path: "/cache/clear",
      handle: () => ({ message: "Cache cleared", entries_removed: idempotency.clear() }),
    },
  ];
}
