/**
 * Fair slots at the database. The pool itself serves first come, first served: a flood of one API
 * key, or of strangers from one address, would delay all others. Here each lane waits only for
 * itself.
 *
 * DT1  A lane is an API key, or an address while its key is unknown. Slots go round robin over
 *      lanes.
 * DT2  No lane has all connections, so that another's first query does not wait for a slow one.
 * DT3  A request that has waited too long gets a 503; a request in a full lane gets a 429.
 * DT4  The health report never waits: one connection is its own. It runs one query at a time.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { Lanes } from "@torpor/bus";
import type { TakeTurn } from "@torpor/db";
import { tooManyRequests } from "./http/errors.ts";

const WAIT_LIMIT_MS = 20_000;
const WAITING_PER_LANE = 5_000;
const SHARE_OF_A_LANE = 0.75;
/** The gateway's own work. */
const OWN_LANE = "gateway";
const HEALTH_LANE = "health";

const current = new AsyncLocalStorage<string>();

/** Runs `body`; its queries, then and later, are in this lane. */
export const inLane = <T>(lane: string, body: () => T): T => current.run(lane, body);

/** The same for the gateway's own work, whichever client's request began it. */
export const inOwnLane = <T>(body: () => T): T => inLane(OWN_LANE, body);

/** Lets concurrent calls share the result of one `ping`. */
export function createHealthPing(ping: () => Promise<void>): () => Promise<void> {
  let asking: Promise<void> | undefined;
  return async () => {
    asking ??= inLane(HEALTH_LANE, ping).finally(() => (asking = undefined));
    await asking;
  };
}

/** `connections`: the size of the pool, two or more. */
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

/** Has the code of an outage, so that the client gets a 503. */
const waitedTooLong = (ms: number) =>
  Object.assign(new Error(`the database was busy for ${ms / 1000} s`), { code: "ETIMEDOUT" });
