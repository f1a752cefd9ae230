/**
 * Whether hosts can renew their leases. The silence of a host says nothing about it while nobody
 * could have heard it: with Postgres, all of NATS or every scheduler away, all hosts are silent.
 *
 * LS1  A host is lost when its lease has ended AND leases could be renewed, without a gap, for the
 *      whole time of a lease until now. So after an outage each host has a lease's time to come
 *      back, and one that is dead is seen after that.
 * - Leases themselves are left alone. A host is judged later than its lease says, never sooner, so
 *   it still stands frozen before anybody else runs what it has.
 * LS3  Every scheduler that has just heard from the bus notes it here, where the gap since the note
 *      before is looked at in the same statement: whoever is the first after an outage, or stood
 *      still between its look and its note, ends the time without a gap. One that is cut off from
 *      the bus notes nothing, and goes by what the others note.
 */
import { type SQL, sql } from "drizzle-orm";
import type { Tx } from "../database.ts";
import { leaseService } from "../schema.ts";

const ago = (ms: number) => sql`now() - ${`${ms} milliseconds`}::interval`;
/**
 * Shorter outages need no allowance: a host renews with two thirds of its lease left, and tries
 * again several times in what is then left of it.
 */
const gapMs = (leaseMs: number) => leaseMs / 4;

/**
 * Hosts can renew their leases now. To be called several times in a quarter of a lease.
 * `placesAtHome`: whether it places by `local-first`, so that gateways know.
 */
export async function noteAnswering(db: Tx, leaseMs: number, placesAtHome = false): Promise<void> {
  const { answeredAt, answeringSince } = leaseService;
  await db
    .insert(leaseService)
    .values({ id: 1, answeringSince: sql`now()`, answeredAt: sql`now()`, placesAtHome })
    .onConflictDoUpdate({
      target: leaseService.id,
      set: {
        answeringSince: sql`CASE WHEN ${answeredAt} < ${ago(gapMs(leaseMs))} THEN now() ELSE ${answeringSince} END`,
        answeredAt: sql`now()`,
        placesAtHome,
      },
    });
}

/** Leases could be renewed for the whole time of one, until now. */
export function couldBeRenewed(leaseMs: number): SQL {
  const { answeredAt, answeringSince } = leaseService;
  return sql`EXISTS (SELECT 1 FROM ${leaseService} WHERE ${answeredAt} >= ${ago(gapMs(leaseMs))} AND ${answeringSince} < ${ago(leaseMs)})`;
}
