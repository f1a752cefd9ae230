/**
 * Drains of hosts: what was asked for, and how far each sandbox is. What is done about it is decided in the scheduler, by any number of them, from these rows.
 *
 * D1  At most `max_parallel` sandboxes of a drain are worked on at once: a place is taken under a lock on the drain's row.
 * D2  A sandbox is decided about by one scheduler at a time, under locks on its row and then on its row here: the order of `keepPaused`.
 */
import type { Cause } from "@torpor/contracts";
import { and, asc, desc, eq, inArray, isNotNull, isNull, lt, ne, or, sql } from "drizzle-orm";
import type { Database, Tx } from "../client.ts";
import type { DrainedSandboxEnd } from "../host-records.ts";
import { drains, drainSandboxes, hosts, sandboxes } from "../schema.ts";
import { type HostMoved, lockHost, moveHost, recordHostEvent } from "./host-events.ts";
import { liesOn, type SandboxRow } from "./move-sandbox.ts";

export type DrainRow = typeof drains.$inferSelect;
export type DrainSandboxRow = typeof drainSandboxes.$inferSelect;

export interface DrainBudget {
  maxParallel: number;
  maxBytesPerSecond: number | null;
  deadlineAt: Date | null;
}

export type DrainChanged = HostMoved | { kind: "not_found" };

const atWork = inArray(drains.status, ["active", "undoing"]);

/** Starts a drain. A host that is draining already gets the new budget; a drain that is being undone goes on. */
export async function requestDrain(db: Database, hostId: string, budget: DrainBudget, requestedBy: string): Promise<DrainChanged> {
  return await db.transaction(async (tx) => {
    const host = await lockHost(tx, hostId);
    if (host === undefined) return { kind: "not_found" };
    const moved = await moveHost(tx, { host, event: "drain", fact: "drain_started", requestedBy });
    if (moved.kind === "refused") return moved;
    const [known] = await tx
      .update(drains)
      .set({ ...budget, status: "active", endsAs: null })
      .where(and(eq(drains.hostId, hostId), atWork))
      .returning();
    const [drain = known] =
      known === undefined
        ? await tx
            .insert(drains)
            .values({ ...budget, hostId, status: "active", requestedBy })
            .returning()
        : [];
    if (drain === undefined) throw new Error("the inserted drain was not returned");
    await takeUpSandboxes(tx, drain);
    return moved;
  });
}

/** Ends a drain before its host is empty: the host is cordoned, and what the drain has paused is resumed. */
export async function endDrain(
  db: Database,
  hostId: string,
  how: { endsAs: "aborted" | "expired"; requestedBy: string; cause?: Cause },
): Promise<DrainChanged> {
  return await db.transaction(async (tx) => {
    const host = await lockHost(tx, hostId);
    if (host === undefined) return { kind: "not_found" };
    const { endsAs, requestedBy, cause } = how;
    const moved = await moveHost(tx, { host, event: "abort_drain", fact: `drain_${endsAs}`, requestedBy, cause });
    if (moved.kind === "moved") {
      await tx
        .update(drains)
        .set({ status: "undoing", endsAs })
        .where(and(eq(drains.hostId, hostId), eq(drains.status, "active")));
      return moved;
    }
    const [undoing] = await tx
      .select({ id: drains.id })
      .from(drains)
      .where(and(eq(drains.hostId, hostId), eq(drains.status, "undoing")));
    return undoing === undefined ? moved : { kind: "stay", host };
  });
}

/** Active drains past their deadline. */
export async function listExpiredDrains(db: Tx): Promise<DrainRow[]> {
  return await db
    .select()
    .from(drains)
    .where(and(eq(drains.status, "active"), lt(drains.deadlineAt, sql`now()`)));
}

/** Drains that have something to do now. A lost host is left alone: nothing can be moved off it. */
export async function listDrainsAtWork(db: Tx): Promise<DrainRow[]> {
  const rows = await db
    .select({ drain: drains })
    .from(drains)
    .innerJoin(hosts, eq(hosts.id, drains.hostId))
    .where(and(atWork, or(eq(drains.status, "undoing"), eq(hosts.state, "draining"))))
    .orderBy(asc(drains.id));
  return rows.map(({ drain }) => drain);
}

/** Takes up every sandbox that is on the host now, or would come back to it; one that was done and is back is begun again. */
export async function takeUpSandboxes(db: Tx, { id, hostId }: DrainRow): Promise<void> {
  await db.execute(sql`
    INSERT INTO drain_sandboxes (drain_id, sandbox_id)
    SELECT ${id}, sandboxes.id FROM sandboxes WHERE ${liesOn(hostId)} AND state NOT IN ('deleting', 'deleted')
    ON CONFLICT (drain_id, sandbox_id) DO UPDATE SET ended_at = NULL, outcome = NULL, operation_id = NULL, working_since = NULL
    WHERE drain_sandboxes.ended_at IS NOT NULL`);
}

/** Those that are not done and whose time has come, the ones at work and the ones that have failed least first. */
export async function listDrainSandboxes(db: Tx, drainId: number, limit: number): Promise<DrainSandboxRow[]> {
  const isDue = or(isNotNull(drainSandboxes.workingSince), isNull(drainSandboxes.retryAt), lt(drainSandboxes.retryAt, sql`now()`));
  return await db
    .select()
    .from(drainSandboxes)
    .where(and(eq(drainSandboxes.drainId, drainId), isNull(drainSandboxes.endedAt), isDue))
    .orderBy(sql`${drainSandboxes.workingSince} IS NULL`, asc(drainSandboxes.attempts), asc(drainSandboxes.sandboxId))
    .limit(limit);
}

/** Takes a place for the sandbox, if one is free (D1). */
export async function takePlace(db: Database, drainId: number, sandboxId: string): Promise<boolean> {
  return await db.transaction(async (tx) => {
    const [drain] = await tx.select().from(drains).where(eq(drains.id, drainId)).for("update");
    if (drain?.status !== "active") return false;
    const open = and(eq(drainSandboxes.drainId, drainId), isNull(drainSandboxes.endedAt));
    if ((await tx.$count(drainSandboxes, and(open, isNotNull(drainSandboxes.workingSince)))) >= drain.maxParallel) return false;
    const taken = await tx
      .update(drainSandboxes)
      .set({ workingSince: sql`now()`, progressedAt: sql`now()` })
      .where(and(open, eq(drainSandboxes.sandboxId, sandboxId), isNull(drainSandboxes.workingSince)))
      .returning({ id: drainSandboxes.sandboxId });
    return taken.length === 1;
  });
}

export type DrainSandboxPatch = Partial<Omit<typeof drainSandboxes.$inferInsert, "drainId" | "sandboxId">>;

/** Decides about one sandbox, alone (D2), and keeps the patch that `decide` returns. Undefined: it is done. */
export async function withDrainSandbox<T>(
  db: Database,
  drainId: number,
  sandboxId: string,
  decide: (tx: Tx, item: DrainSandboxRow, sandbox: SandboxRow) => Promise<{ patch: DrainSandboxPatch; next: T }>,
): Promise<T | undefined> {
  return await db.transaction(async (tx) => {
    const [sandbox] = await tx.select().from(sandboxes).where(eq(sandboxes.id, sandboxId)).for("no key update");
    const itsRow = and(eq(drainSandboxes.drainId, drainId), eq(drainSandboxes.sandboxId, sandboxId));
    const [item] = await tx
      .select()
      .from(drainSandboxes)
      .where(and(itsRow, isNull(drainSandboxes.endedAt)))
      .for("update");
    if (item === undefined || sandbox === undefined) return undefined;
    const decided = await decide(tx, item, sandbox);
    if (Object.keys(decided.patch).length > 0) await tx.update(drainSandboxes).set(decided.patch).where(itsRow);
    return decided.next;
  });
}

/** Its owner wants it paused: no drain resumes it. */
export async function keepPaused(tx: Tx, sandboxId: string): Promise<void> {
  await tx
    .update(drainSandboxes)
    .set({ owesResume: false })
    .where(and(eq(drainSandboxes.sandboxId, sandboxId), isNull(drainSandboxes.endedAt), eq(drainSandboxes.owesResume, true)));
}

/** Ends a drain whose host is empty; true when it has. The host is cordoned then. */
export async function finishDrain(db: Database, { id, hostId }: DrainRow): Promise<boolean> {
  return await db.transaction(async (tx) => {
    const host = await lockHost(tx, hostId);
    const open = await tx.$count(drainSandboxes, and(eq(drainSandboxes.drainId, id), isNull(drainSandboxes.endedAt)));
    if (host === undefined || open > 0 || (await tx.$count(sandboxes, liesOn(hostId))) > 0) return false;
    const ended = await endWith(tx, id, "active", "done");
    if (ended) await moveHost(tx, { host, event: "drained", fact: "drained", requestedBy: "system:drain" });
    return ended;
  });
}

/** Ends a drain that was given up, once it owes no sandbox a resume any more. What it has not touched is left as it is. */
export async function finishUndoing(db: Database, drain: DrainRow): Promise<boolean> {
  return await db.transaction(async (tx) => {
    const host = await lockHost(tx, drain.hostId);
    const open = and(eq(drainSandboxes.drainId, drain.id), isNull(drainSandboxes.endedAt));
    if (host === undefined || (await tx.$count(drainSandboxes, and(open, eq(drainSandboxes.owesResume, true)))) > 0) return false;
    const ended = await endWith(tx, drain.id, "undoing", drain.endsAs ?? "aborted");
    if (!ended) return false;
    await tx
      .update(drainSandboxes)
      .set({ endedAt: sql`now()`, outcome: "returned", workingSince: null })
      .where(open);
    const standing = { from: host.state, to: host.state };
    await recordHostEvent(tx, { hostId: host.id, fact: "drain_undone", ...standing, requestedBy: "system:drain" });
    return true;
  });
}

/** Of a host that will not come back, and has no sandboxes. */
export async function giveUpDrain(tx: Tx, hostId: string): Promise<void> {
  await tx
    .update(drains)
    .set({ status: "aborted", endedAt: sql`now()` })
    .where(and(eq(drains.hostId, hostId), atWork));
}

async function endWith(tx: Tx, id: number, from: DrainRow["status"], to: DrainRow["status"]): Promise<boolean> {
  const rows = await tx
    .update(drains)
    .set({ status: to, endedAt: sql`now()` })
    .where(and(eq(drains.id, id), eq(drains.status, from)))
    .returning({ id: drains.id });
  return rows.length === 1;
}

export interface SeenReplication {
  sandboxId: string;
  bytesDone: number;
  bytesTotal: number;
}

/** Notes how far the copies of a host's sandboxes to the store are. */
export async function recordReplication(db: Tx, hostId: string, seen: SeenReplication[]): Promise<void> {
  if (seen.length === 0) return;
  await db.execute(sql`
    UPDATE drain_sandboxes SET bytes_done = seen."bytesDone", bytes_total = seen."bytesTotal",
      progressed_at = CASE WHEN bytes_done = seen."bytesDone" THEN progressed_at ELSE now() END
    FROM jsonb_to_recordset(${JSON.stringify(seen)}::jsonb) AS seen("sandboxId" text, "bytesDone" bigint, "bytesTotal" bigint), drains
    WHERE drain_sandboxes.sandbox_id = seen."sandboxId" AND drain_sandboxes.ended_at IS NULL
      AND drains.id = drain_sandboxes.drain_id AND drains.host_id = ${hostId}`);
}

export interface DrainProgress {
  drain: DrainRow;
  /** Numbers of sandboxes; `failed` are those that wait after a failure. */
  total: number;
  ended: Partial<Record<DrainedSandboxEnd, number>>;
  working: number;
  failed: number;
  bytesDone: number;
  bytesTotal: number;
  failures: DrainSandboxRow[];
}

const MAX_FAILURES_SHOWN = 100;

/** The newest drain of each host that has had one. */
export async function listDrainProgress(db: Tx, hostIds: string[]): Promise<Map<string, DrainProgress>> {
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
  const isFailed = and(inArray(drainSandboxes.drainId, ids), isNull(drainSandboxes.endedAt), isNotNull(drainSandboxes.error));
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
  return { drain, total: 0, ended: {}, working: 0, failed: 0, bytesDone: 0, bytesTotal: 0, failures: [] };
}

async function addCounts(db: Tx, progress: Map<number, DrainProgress>, ids: number[]): Promise<void> {
  const { drainId, outcome, workingSince, error, endedAt, bytesDone, bytesTotal } = drainSandboxes;
  const rows = await db
    .select({
      drainId,
      outcome,
      count: sql<number>`count(*)::int`,
      working: sql<number>`count(*) FILTER (WHERE ${workingSince} IS NOT NULL AND ${endedAt} IS NULL)::int`,
      failed: sql<number>`count(*) FILTER (WHERE ${error} IS NOT NULL AND ${endedAt} IS NULL)::int`,
      bytesDone: sql<number>`coalesce(sum(${bytesDone}), 0)::float8`,
      bytesTotal: sql<number>`coalesce(sum(${bytesTotal}), 0)::float8`,
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
    if (row.outcome !== null) one.ended[row.outcome] = row.count;
  }
}

/** What the sandboxes of a host need of another one, alike ones together. */
export interface SandboxNeed {
  imageSha256: string;
  region: string;
  vcpu: number;
  memoryMib: number;
  diskMib: number;
  runs: boolean;
  count: number;
}

export async function listSandboxNeeds(db: Tx, hostId: string): Promise<SandboxNeed[]> {
  const { imageSha256, region, vcpu, memoryMib, diskMib, settledState, state } = sandboxes;
  const runs = sql<boolean>`${settledState} IN ('running', 'creating')`;
  return await db
    .select({ imageSha256, region, vcpu, memoryMib, diskMib, runs, count: sql<number>`count(*)::int` })
    .from(sandboxes)
    .where(and(eq(sandboxes.hostId, hostId), ne(state, "deleting"), ne(state, "deleted"), ne(state, "error")))
    .groupBy(imageSha256, region, vcpu, memoryMib, diskMib, runs);
}
