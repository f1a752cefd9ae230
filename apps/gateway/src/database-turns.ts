/**
 * Whose turn it is at the database. The pool serves whoever comes first: a flood of one API key, or
 * of strangers of one address, would make everybody wait behind it. Here each waits for its own.
 *
 * DT1  A lane is an API key, or an address of which no key is known yet. Turns go round the lanes.
 * DT2  No lane has all connections, so that another's first query does not wait for a slow one.
 * DT3  Whoever has waited too long, or comes to a lane that is full, is answered 503 or 429.
 * DT4  The health report waits for nobody: one connection is its own. It asks once at a time.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { Lanes } from "@torpor/bus";
import type { TakeTurn } from "@torpor/db";
import { tooManyRequests } from "./errors.ts";

const WAIT_LIMIT_MS = 20_000;
const WAITING_PER_LANE = 5_000;
const SHARE_OF_A_LANE = 0.75;
/** For what the gateway does by itself. */
const OWN_LANE = "gateway";
const HEALTH_LANE = "health";

const current = new AsyncLocalStorage<string>();

/** What `body` asks of the database, then and later, is asked in this lane. */
export const inLane = <T>(lane: string, body: () => T): T => current.run(lane, body);

/** The same for what the gateway does by itself, on whosever behalf it began. */
export const inOwnLane = <T>(body: () => T): T => inLane(OWN_LANE, body);

/** What `ping` says; those who ask while it asks get the same answer. */
export function createHealthPing(ping: () => Promise<void>): () => Promise<void> {
  let asking: Promise<void> | undefined;
  return async () => {
    asking ??= inLane(HEALTH_LANE, ping).finally(() => (asking = undefined));
    await asking;
  };
}

/** For a pool of so many connections, two or more. */
export function createDatabaseTurns(connections: number, waitLimitMs = WAIT_LIMIT_MS): TakeTurn {
  const lanes = new Lanes({
    atOnce: connections - 1,
    atOncePerLane: Math.max(1, Math.floor((connections - 1) * SHARE_OF_A_LANE)),
    waiting: WAITING_PER_LANE,
  });
  const inTurn = <T>(lane: string, work: () => Promise<T>) =>
    new Promise<T>((resolve, reject) => {
      let isLate = false;
      let hasBegun = false;
      let limit: NodeJS.Timeout | undefined;
      const atItsTurn = AsyncLocalStorage.bind(async () => {
        hasBegun = true;
        clearTimeout(limit);
        if (!isLate) await work().then(resolve, reject);
      });
      if (lanes.add(lane, atItsTurn)) {
        if (hasBegun) return;
        limit = setTimeout(() => {
          isLate = true;
          reject(waitedTooLong(waitLimitMs));
        }, waitLimitMs);
        return;
      }
      reject(tooManyRequests("Too many requests wait for the database already.", 1));
    });
  return (work) => {
    const lane = current.getStore() ?? OWN_LANE;
    return lane === HEALTH_LANE ? work() : inTurn(lane, work);
  };
}

/** Read as an outage, which it is for whoever waited. */
const waitedTooLong = (ms: number) =>
  Object.assign(new Error(`the database was busy for ${ms / 1000} s`), { code: "ETIMEDOUT" });
