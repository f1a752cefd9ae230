/**
 * Wrong API keys, and wrong links to previews, counted by the address that they come from, before
 * the database is asked about them: whoever tries some, or goes on with one that is good no more,
 * is told to wait.
 */
import { RateLimiterMemory, RateLimiterRes } from "rate-limiter-flexible";
import { tooManyRequests } from "./errors.ts";
import { ownerOfAddress } from "./proxies.ts";

const WINDOW_S = 60;

export interface Guesses {
  /**
   * Looks a credential up; undefined: it was wrong. Throws the 429 without a look after too many.
   */
  judge<T>(address: string, lookUp: () => Promise<T | undefined>): Promise<T | undefined>;
}

/** Of what, as the message calls them. */
export type Guessed = "API keys" | "links";

/** `perMinute` 0: as many as one likes. Counted by this process for itself. */
export function createGuesses(perMinute: number, of: Guessed): Guesses {
  if (perMinute === 0) return { judge: async (_address, lookUp) => await lookUp() };
  const limiter = new RateLimiterMemory({ points: perMinute, duration: WINDOW_S });
  return {
    async judge(address, lookUp) {
      const owner = ownerOfAddress(address);
      // Counted first: those that come together do not pass together.
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
