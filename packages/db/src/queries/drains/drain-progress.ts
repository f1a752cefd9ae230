/** Progress of drains: what the hosts report about the copies, what is done, and how fast. */
import type { HostId, SandboxId } from "@torpor/contracts";
import { and, asc, desc, eq, gt, inArray, isNotNull, isNull, ne, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import type { DrainedSandboxEnd } from "../../host-records.ts";
import { drains, drainSandboxes } from "../../schema.ts";
import type { DrainRow, DrainSandboxRow } from "./drains.ts";

export interface SeenReplication {
  sandboxId: SandboxId;
  bytesDone: number;
  bytesTotal: number;
}

export interface DrainProgress {
  drain: DrainRow;
  /** Numbers of sandboxes; `failed` are those that wait after a failure. */
  total: number;
  ended: Partial<Record<DrainedSandboxEnd, number>>;
  working: number;
  failed: number;
  /** Bytes to move: all of a sandbox that has left, none of a returned or deleted one. */
  bytesDone: number;
  bytesTotal: number;
  /** The part of `bytesTotal` that is an estimate. */
  bytesEstimated: number;
  failures: DrainSandboxRow[];
}

const MAX_FAILURES_SHOWN = 100;

/** The newest drain of each host that has had one. */
export async function listDrainProgress(
  db: Tx,
  hostIds: HostId[],
): Promise<Map<HostId, DrainProgress>> {
  if (hostIds.length === 0) return new Map();
  const newest = await db
    .selectDistinctOn([drains.hostId])
    .from(drains)
    .where(inArray(drains.hostId, hostIds))
    .orderBy(drains.hostId, desc(drains.id));
  const progress = new Map(newest.map((drain) => [drain.id, emptyProgress(drain)]));
  if (newest.length === 0) return new Map();
  const ids = [...progress.keys()];
  await addCounts(db, progress, ids);
  const isFailed = and(
    inArray(drainSandboxes.drainId, ids),
    isNull(drainSandboxes.endedAt),
    isNotNull(drainSandboxes.error),
  );
  const failures = await db
    .select()
    .from(drainSandboxes)
    .where(isFailed)
    .orderBy(asc(drainSandboxes.sandboxId))
    .limit(MAX_FAILURES_SHOWN * ids.length);
  for (const failure of failures) {
    const shown = progress.get(failure.drainId)?.failures;
    if (shown !== undefined && shown.length < MAX_FAILURES_SHOWN) shown.push(failure);
  }
  return new Map([...progress.values()].map((one) => [one.drain.hostId, one]));
}

function emptyProgress(drain: DrainRow): DrainProgress {
  return {
    drain,
    total: 0,
    ended: {},
    working: 0,
    failed: 0,
    bytesDone: 0,
    bytesTotal: 0,
    bytesEstimated: 0,
    failures: [],
  };
}

const counts = sql`(${drainSandboxes.outcome} IS NULL OR ${drainSandboxes.outcome} IN ('moved', 'released'))`;
const hasLeft = sql`coalesce(${drainSandboxes.outcome} IN ('moved', 'released'), false)`;
const { bytesDone, bytesTotal, isEstimate } = drainSandboxes;
/** Sums over the rows of a drain. */
const BYTES = {
  bytesDone: sql<number>`coalesce(sum(CASE WHEN ${hasLeft} THEN ${bytesTotal} ELSE ${bytesDone} END) FILTER (WHERE ${counts}), 0)::float8`,
  bytesTotal: sql<number>`coalesce(sum(${bytesTotal}) FILTER (WHERE ${counts}), 0)::float8`,
  bytesEstimated: sql<number>`coalesce(sum(${bytesTotal}) FILTER (WHERE ${counts} AND ${isEstimate} AND NOT ${hasLeft}), 0)::float8`,
};

async function addCounts(
  db: Tx,
  progress: Map<number, DrainProgress>,
  ids: number[],
): Promise<void> {
  const { drainId, outcome, workingSince, error, endedAt } = drainSandboxes;
  const rows = await db
    .select({
      drainId,
      outcome,
      count: sql<number>`count(*)::int`,
      working: sql<number>`count(*) FILTER (WHERE ${workingSince} IS NOT NULL AND ${endedAt} IS NULL)::int`,
      failed: sql<number>`count(*) FILTER (WHERE ${error} IS NOT NULL AND ${endedAt} IS NULL)::int`,
      ...BYTES,
    })
    .from(drainSandboxes)
    .where(inArray(drainId, ids))
    .groupBy(drainId, outcome);
  for (const row of rows) {
    const one = progress.get(row.drainId);
    if (one === undefined) continue;
    one.total += row.count;
    one.working += row.working;
    one.failed += row.failed;
    one.bytesDone += row.bytesDone;
    one.bytesTotal += row.bytesTotal;
    one.bytesEstimated += row.bytesEstimated;
    if (row.outcome !== null) one.ended[row.outcome] = row.count;
  }
}

/** Bytes that a drain has copied so far, with the time by the database's clock. */
export async function readDrainBytes(
  db: Tx,
  drainId: number,
): Promise<{ bytes: number; at: Date }> {
  const [row] = await db
    .select({ bytes: BYTES.bytesDone, at: sql<string>`clock_timestamp()` })
    .from(drainSandboxes)
    .where(eq(drainSandboxes.drainId, drainId));
  if (row === undefined) throw new Error(`the bytes of drain ${drainId} were not summed`);
  return { bytes: row.bytes, at: new Date(row.at) };
}

export type DrainMeasure = Pick<DrainRow, "measuredBytes" | "measuredAt" | "bytesPerSecond">;

/** Stores the measure, unless another scheduler has measured since. */
export async function noteDrainMeasure(
  db: Tx,
  { id, measuredAt }: Pick<DrainRow, "id" | "measuredAt">,
  measure: DrainMeasure,
): Promise<void> {
  await db
    .update(drains)
    .set(measure)
    .where(and(eq(drains.id, id), eq(drains.measuredAt, measuredAt)));
}

/** When another copy of the drain last grew. */
export async function lastGrowthBeside(
  db: Tx,
  drainId: number,
  sandboxId: SandboxId,
): Promise<Date | null> {
  const others = and(
    eq(drainSandboxes.drainId, drainId),
    ne(drainSandboxes.sandboxId, sandboxId),
    gt(bytesDone, 0),
  );
  const [newest] = await db
    .select({ at: drainSandboxes.progressedAt })
    .from(drainSandboxes)
    .where(and(others, isNotNull(drainSandboxes.progressedAt)))
    .orderBy(desc(drainSandboxes.progressedAt))
    .limit(1);
  return newest?.at ?? null;
}
