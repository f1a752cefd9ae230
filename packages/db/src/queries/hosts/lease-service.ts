/**
 * Tracks whether hosts can renew their leases. The silence of a host proves nothing while no
 * scheduler could hear the host: without Postgres, all of NATS or every scheduler, all hosts are
 * silent.
 *
 * LS1  A host is lost when its lease has ended AND leases could be renewed, without a gap, for the
 *      whole time of a lease until now. So after an outage each host has a lease's time to return,
 *      and a dead host is detected after that.
 * - Leases themselves do not change. A host counts as lost later than its lease ends, never sooner,
 *   so its VMs are still frozen before another host runs its sandboxes.
 * LS3  Every scheduler that has just heard from the bus records that here, and the same statement
 *      checks the gap since the previous record. So the time without a gap ends with the first
 *      record after an outage, also if the scheduler hung before it wrote the record. A scheduler
 *      that is cut off from the bus records nothing, and relies on the records of the others.
 */
import { type SQL, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { leaseService } from "../../schema.ts";

const ago = (ms: number) => sql`now() - ${`${ms} milliseconds`}::interval`;
/**
 * Longest gap that needs no allowance: a host renews with two thirds of its lease left, and retries
 * several times after that.
 */
const gapMs = (leaseMs: number) => leaseMs / 4;

/**
 * Records that hosts can renew their leases now. Call it several times per quarter of a lease.
 * `placesAtHome`: the scheduler places by `local-first`, which gateways need to know.
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

/** Leases could be renewed for the whole time of one lease, until now. */
export function couldBeRenewed(leaseMs: number): SQL {
  const { answeredAt, answeringSince } = leaseService;
  return sql`EXISTS (SELECT 1 FROM ${leaseService} WHERE ${answeredAt} >= ${ago(gapMs(leaseMs))} AND ${answeringSince} < ${ago(leaseMs)})`;
}
