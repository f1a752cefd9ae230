/**
 * Wrong API keys, counted by the address that they come from, before the database is asked about
 * them: whoever tries keys, or goes on with one that is good no more, is told to wait.
 */
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import { tooManyRequests } from "./errors.ts";
import { ownerOfAddress } from "./proxies.ts";

const WINDOW_S = 60;

export interface Guesses {
  /** Looks a credential up; undefined: it was wrong. Throws the 429 without a look after too many. */
  judge<T>(address: string, lookUp: () => Promise<T | undefined>): Promise<T | undefined>;
}

/** `perMinute` 0: as many as one likes. Counted by this process for itself. */
export function createGuesses(perMinute: number): Guesses {
  if (perMinute === 0) return { judge: async (_address, lookUp) => await lookUp() };
  const limiter = new RateLimiterMemory({ points: perMinute, duration: WINDOW_S });
  return {
    async judge(address, lookUp) {
      const owner = ownerOfAddress(address);
      // Counted first: those that come together do not pass together.
      await limiter.consume(owner).catch((rejected: unknown) => {
        throw rejected instanceof RateLimiterRes ? tooManyGuesses(rejected) : rejected;
      });
      let isWrong = false;
      try {
        const found = await lookUp();
        isWrong = found === undefined;
        return found;
      } finally {
        if (!isWrong) await limiter.reward(owner);
      }
    },
  };
}

function tooManyGuesses({ msBeforeNext }: RateLimiterRes) {
  const seconds = Math.max(1, Math.ceil(msBeforeNext / 1000));
  return tooManyRequests(
    `Too many wrong API keys came from this address. Correct the key, and try again in ${seconds} s.`,
    seconds,
  );
}
