/**
 * Random numbers for tests: different in each run, and the same again with the seed that the run
 * printed.
 */
import { createHash, randomInt } from "node:crypto";

const LIMIT = 2 ** 31;

/** TORPOR_TEST_SEED, which `./torpor test` sets and prints; otherwise a new one. */
export const TEST_SEED = Number(process.env["TORPOR_TEST_SEED"] ?? randomInt(LIMIT));

/** Numbers in [0, 1) for one purpose: draws for another purpose do not change them. */
export function draws(purpose: string): () => number {
  let state = createHash("sha256").update(`${TEST_SEED} ${purpose}`).digest().readUInt32BE(0);
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}
