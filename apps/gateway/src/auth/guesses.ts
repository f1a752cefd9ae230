/**
 * Counts wrong API keys, and wrong preview links, by the address that sends them: guesses, and
 * credentials that have ended. An address with too many gets a 429 before the database is read.
 */
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import { tooManyRequests } from "../http/errors.ts";
import { ownerOfAddress } from "../http/proxies.ts";

const WINDOW_S = 60;

export interface Guesses {
  /**
   * Looks a credential up; undefined: it is wrong. After too many wrong ones, throws the 429
   * without the look-up.
   */
  judge<T>(address: string, lookUp: () => Promise<T | undefined>): Promise<T | undefined>;
}

/** The kind of credential, as the message calls it. */
export type Guessed = "API keys" | "links";

/** `perMinute` 0: no limit. Each process counts for itself. */
export function createGuesses(perMinute: number, of: Guessed): Guesses {
  if (perMinute === 0) return { judge: async (_address, lookUp) => await lookUp() };
  const limiter = new RateLimiterMemory({ points: perMinute, duration: WINDOW_S });
  return {
    async judge(address, lookUp) {
      const owner = ownerOfAddress(address);
      // Counted before the look-up: concurrent guesses must not pass together.
      await limiter.consume(owner).catch((rejected: unknown) => {
        throw rejected instanceof RateLimiterRes ? tooManyGuesses(of, rejected) : rejected;
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

const CORRECT: Record<Guessed, string> = {
  "API keys": "Correct the key",
  links: "Ask whoever gave it to you for a new one",
};

function tooManyGuesses(of: Guessed, { msBeforeNext }: RateLimiterRes) {
  const seconds = Math.max(1, Math.ceil(msBeforeNext / 1000));
  return tooManyRequests(
    `Too many wrong ${of} came from this address. ${CORRECT[of]}, and try again in ${seconds} s.`,
    seconds,
  );
}
