/**
 * Requests per minute: a budget per API key on the control plane, and per sandbox or API key at the
 * edge. Each gateway process counts for itself, in windows of a minute. `@fastify/rate-limit` works
 * only for Fastify's routes, and the edge is a plain HTTP server, so both count with one library.
 */
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import { tooManyRequests } from "../http/errors.ts";

const WINDOW_S = 60;

export interface RateLimiter {
  /**
   * Takes one request from the budget. Returns the headers with what is left; throws the 429 when
   * nothing is.
   */
  take(budget: string): Promise<Record<string, string>>;
}

/** `perMinute` 0: no limit, and no headers. */
export function createRateLimiter(perMinute: number): RateLimiter {
  if (perMinute === 0) return { take: async () => ({}) };
  const limiter = new RateLimiterMemory({ points: perMinute, duration: WINDOW_S });
  return {
    async take(budget) {
      try {
        return headersOf(perMinute, await limiter.consume(budget));
      } catch (rejected) {
        if (!(rejected instanceof RateLimiterRes)) throw rejected;
        const seconds = Math.max(1, Math.ceil(rejected.msBeforeNext / 1000));
        const message = `More than ${perMinute} requests came within a minute. Try again in ${seconds} s.`;
        throw tooManyRequests(message, seconds, { headers: headersOf(perMinute, rejected) });
      }
    },
  };
}

function headersOf(
  perMinute: number,
  { remainingPoints, msBeforeNext }: RateLimiterRes,
): Record<string, string> {
  return {
    "x-ratelimit-limit": String(perMinute),
    "x-ratelimit-remaining": String(remainingPoints),
    "x-ratelimit-reset": String(Math.ceil((Date.now() + msBeforeNext) / 1000)),
  };
}
