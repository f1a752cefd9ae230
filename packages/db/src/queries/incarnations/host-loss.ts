/**
 * Runs that were lost with their host, and what they can be restored from. Times are the
 * database's: a host counts its lease from before its request, so the lease on the host ends no
 * later.
 */
import type { HostId, SandboxId } from "@torpor/contracts";
import { and, eq, inArray, isNotNull, isNull, lt, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { isOneOf } from "../../literals.ts";
import { hosts, incarnations, sandboxes } from "../../schema.ts";
import type { HostRow } from "../hosts/host-events.ts";
import { hasLease } from "../hosts/placement.ts";
import type { SandboxRow } from "../sandboxes/sandbox-row.ts";
import type { IncarnationRow } from "./incarnations.ts";

/** States in which the vCPUs may have run until the fence froze the VM. */
const RUN_STATES = [
  "running",
  "pausing",
  "resuming",
  "stopping",
  "starting",
] as const satisfies readonly SandboxRow["state"][];

export interface LostRun {
  sandbox: SandboxRow;
  host: HostRow;
  incarnation: IncarnationRow;
}

const silentFor = (marginMs: number) =>
  sql`${hosts.leaseExpiresAt} + ${`${marginMs} milliseconds`}::interval < now()`;

/**
 * Sandboxes to restore on another host, by their policy: the vCPUs were allowed to run, and the
 * host has been silent past its lease and the margin. In random order, so that sandboxes that
 * cannot be restored do not block the others.
 */
export async function listLostRuns(db: Tx, marginMs: number, limit: number): Promise<LostRun[]> {
  return await db
    .select({ sandbox: sandboxes, host: hosts, incarnation: incarnations })
    .from(sandboxes)
    .innerJoin(hosts, eq(hosts.id, sandboxes.hostId))
    .innerJoin(
      incarnations,
      and(eq(incarnations.sandboxId, sandboxes.id), eq(incarnations.epoch, sandboxes.epoch)),
    )
    .where(
      and(
        isOneOf(sandboxes.onHostLoss, "restore"),
        isOneOf(sandboxes.state, ...RUN_STATES),
        isOneOf(hosts.state, "lost"),
        silentFor(marginMs),
        isNotNull(incarnations.startedAt),
        isNull(incarnations.endedAt),
      ),
    )
    .orderBy(sql`random()`)
    .limit(limit);
}

const isDue = lt(incarnations.restoreDueAt, sql`now()`);

/**
 * Sandboxes at rest with a pending restore and without an open operation. In random order, as in
 * `listLostRuns`.
 */
export async function listPendingRestores(
  db: Tx,
  limit: number,
): Promise<{ sandbox: SandboxRow; epoch: number }[]> {
  return await db
    .select({ sandbox: sandboxes, epoch: incarnations.epoch })
    .from(incarnations)
    .innerJoin(sandboxes, eq(sandboxes.id, incarnations.sandboxId))
    .where(
      and(
        isDue,
        inArray(sandboxes.state, ["paused", "stopped"]),
        sql`NOT EXISTS (SELECT 1 FROM operations WHERE operations.sandbox_id = ${sandboxes.id} AND operations.ended_at IS NULL)`,
        sql`NOT EXISTS (SELECT 1 FROM incarnations later WHERE later.sandbox_id = ${sandboxes.id} AND later.epoch > ${incarnations.epoch} AND later.started_at IS NOT NULL)`,
      ),
    )
    .orderBy(sql`random()`)
    .limit(limit);
}

export interface RunFacts {
  sandbox: SandboxRow;
  /** The requesting host has a lease. */
  isLeased: boolean;
  /** The run that the request names. */
  incarnation: IncarnationRow | null;
}

/**
 * Facts that decide whether a frozen VM may continue, all of the same moment. Undefined: the
 * sandbox or the host is unknown.
 */
export async function findRunFacts(
  db: Tx,
  run: { hostId: HostId; sandboxId: SandboxId; epoch: number },
): Promise<RunFacts | undefined> {
  const [row] = await db
    .select({
      sandbox: sandboxes,
      isLeased: sql<boolean>`${hasLease}`,
      incarnation: incarnations,
    })
    .from(sandboxes)
    .innerJoin(hosts, eq(hosts.id, run.hostId))
    .leftJoin(
      incarnations,
      and(eq(incarnations.sandboxId, sandboxes.id), eq(incarnations.epoch, run.epoch)),
    )
    .where(eq(sandboxes.id, run.sandboxId));
  return row;
}
