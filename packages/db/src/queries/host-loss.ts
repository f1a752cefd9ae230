/**
 * Runs that were lost with their host, and what they can be restored from. Times are the
 * database's: a host counts its lease from before it asked, so its own ends no later.
 */
import type { SandboxEventType } from "@torpor/contracts";
import { and, desc, eq, gt, inArray, isNotNull, isNull, lt, sql } from "drizzle-orm";
import type { Tx } from "../database.ts";
import { isOneOf } from "../literals.ts";
import { hosts, incarnations, sandboxEvents, sandboxes, snapshots } from "../schema.ts";
import type { HostRow } from "./host-events.ts";
import type { SandboxRow } from "./move-sandbox.ts";
import { hasLease } from "./placement.ts";
import type { IncarnationRow, StoredSnapshotRow } from "./rows.ts";

/** Of these the vCPUs may have run until the fence froze them. */
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
 * Sandboxes to be restored on another host, as their policy says: their vCPUs were allowed to run,
 * and the host has been silent past its lease and the margin. In no order, so that those that
 * cannot be helped do not stand before those that can.
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

/**
 * The newest snapshot of the sandbox that has reached the store, whether it has been run since or
 * not.
 */
export async function findStoredSnapshot(
  db: Tx,
  sandboxId: string,
): Promise<StoredSnapshotRow | undefined> {
  const [row] = await db
    .select()
    .from(snapshots)
    .where(and(eq(snapshots.sandboxId, sandboxId), isNotNull(snapshots.storeKey)))
    .orderBy(desc(snapshots.generation))
    .limit(1);
  return row;
}

const isDue = lt(incarnations.restoreDueAt, sql`now()`);

/**
 * Sandboxes that stand still since a run of theirs was given up for lost, with nothing in flight,
 * and are to run. In no order, as `listLostRuns`.
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

/** Whether the sandbox has an event of that name since then. */
export async function hasEventSince(
  db: Tx,
  sandboxId: string,
  fact: SandboxEventType,
  since: Date,
): Promise<boolean> {
  const rows = await db
    .select({ seq: sandboxEvents.seq })
    .from(sandboxEvents)
    .where(
      and(
        eq(sandboxEvents.sandboxId, sandboxId),
        eq(sandboxEvents.fact, fact),
        gt(sandboxEvents.occurredAt, since),
      ),
    )
    .limit(1);
  return rows.length > 0;
}

export interface RunFacts {
  sandbox: SandboxRow;
  /** Of the host that asks. */
  isLeased: boolean;
  /** Of the run that it asks about. */
  incarnation: IncarnationRow | null;
}

/**
 * What decides whether a frozen VM may go on, all as of one moment. Undefined: no such sandbox, or
 * no such host.
 */
export async function findRunFacts(
  db: Tx,
  run: { hostId: string; sandboxId: string; epoch: number },
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
