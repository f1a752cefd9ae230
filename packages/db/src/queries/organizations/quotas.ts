/**
 * Quotas of organizations.
 *
 * Q1  Use is counted from the rows of sandboxes and operations each time: there is no counter that
 *     could drift.
 * Q2  A request that may use more locks the organization's quotas first and counts then: of two
 *     concurrent requests, the second sees what the first has taken.
 * Q3  An organization without quotas takes no lock and counts nothing.
 * Q4  A sandbox with a pending resume (paused by a drain, or lost with its host) counts as running,
 *     so no quota can refuse that resume.
 */
import { QUOTA_NAMES, type QuotaLimits, type QuotaName, type SandboxId } from "@torpor/contracts";
import type { OperationKind } from "@torpor/state-machine";
import { eq, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { organizationQuotas } from "../../schema.ts";

export type QuotaUse = Record<QuotaName, number>;

/** Limits and current use. */
export interface QuotaStatus {
  limits: QuotaLimits;
  used: QuotaUse;
  /** Until the oldest create of the last minute no longer counts; null: there was none. */
  createsFreeInMs: number | null;
}

export interface QuotaRefusal extends QuotaStatus {
  kind: "quota_exceeded";
  quota: QuotaName;
  limit: number;
  /** How much of the quota the request needs. */
  needed: number;
}

export type QuotaClaim = QuotaRefusal | { kind: "granted"; quotas: QuotaStatus | undefined };

type Resources = Record<"vcpu" | "memoryMib" | "diskMib", number>;

export interface QuotaRequest {
  organizationId: number;
  kind: OperationKind;
  sandbox: { id: SandboxId } & Resources;
  /** The operation replaces a waiting one. */
  supersedes: boolean;
}

const NOTHING = Object.fromEntries(QUOTA_NAMES.map((name) => [name, 0])) as QuotaUse;

/** Use that an operation adds to the current use of its sandbox. */
export function neededBy(asked: QuotaRequest, countsAsRunning: boolean): QuotaUse {
  const { vcpu, memoryMib, diskMib } = asked.sandbox;
  const runs = { running_sandboxes: 1, vcpu, memory_mb: memoryMib };
  const waits = { waiting_operations: asked.supersedes ? 0 : 1 };
  switch (asked.kind) {
    case "create": {
      const kept = { sandboxes: 1, disk_mb: diskMib, creates_per_minute: 1 };
      return { ...NOTHING, ...waits, ...runs, ...kept };
    }
    case "resume":
    case "start":
      return { ...NOTHING, ...waits, ...(countsAsRunning ? {} : runs) };
    // These free resources, and no quota refuses them.
    case "pause":
    case "stop":
    case "delete":
      return NOTHING;
  }
}

/** The first quota with too little left. */
export function findExceeded(
  limits: QuotaLimits,
  used: QuotaUse,
  needed: QuotaUse,
): { quota: QuotaName; limit: number; needed: number } | undefined {
  for (const quota of QUOTA_NAMES) {
    const limit = limits[quota];
    if (limit === undefined || needed[quota] === 0) continue;
    if (used[quota] + needed[quota] > limit) return { quota, limit, needed: needed[quota] };
  }
  return undefined;
}

/** Limits and use of an organization, counted under the lock of its quotas. */
export interface CountedUse extends QuotaStatus {
  /** The named sandboxes that count as running. */
  running: ReadonlySet<SandboxId>;
}

/**
 * Locks the organization's quotas until the end of the transaction, and then counts; undefined:
 * there are no quotas. Rows of the same transaction must use what is granted.
 */
export async function countUnderLock(
  tx: Tx,
  organizationId: number,
  sandboxIds: SandboxId[],
): Promise<CountedUse | undefined> {
  const [held] = await tx
    .select({ limits: organizationQuotas.limits })
    .from(organizationQuotas)
    .where(eq(organizationQuotas.organizationId, organizationId))
    .for("update");
  if (held === undefined) return undefined;
  return { limits: held.limits, ...(await countUse(tx, organizationId, sandboxIds)) };
}

/** Checks requests in order, each with what the earlier ones were granted. */
export function judgeQuotas(
  { running, ...before }: CountedUse,
  asked: QuotaRequest[],
): QuotaClaim[] {
  let { used } = before;
  return asked.map((one) => {
    const needed = neededBy(one, running.has(one.sandbox.id));
    const exceeded = findExceeded(before.limits, used, needed);
    if (exceeded !== undefined) return { kind: "quota_exceeded", ...exceeded, ...before, used };
    const taken = QUOTA_NAMES.map((name) => [name, used[name] + needed[name]]);
    used = Object.fromEntries(taken) as QuotaUse;
    return { kind: "granted", quotas: { ...before, used } };
  });
}

/** Limits and use; undefined: the organization has no quotas. */
export async function findQuotas(db: Tx, organizationId: number): Promise<QuotaStatus | undefined> {
  const limits = await findLimits(db, organizationId);
  return limits === undefined ? undefined : await statusOf(db, organizationId, limits);
}

/** Limits and use, whether the organization has quotas or not. */
export async function readQuotas(db: Tx, organizationId: number): Promise<QuotaStatus> {
  const limits = (await findLimits(db, organizationId)) ?? {};
  return await statusOf(db, organizationId, limits);
}

/** Replaces the organization's quotas. What is used already stays, also above the new limits. */
export async function setQuotas(
  db: Tx,
  organizationId: number,
  limits: QuotaLimits,
  requestedBy: string,
): Promise<void> {
  if (Object.keys(limits).length === 0) {
    await db
      .delete(organizationQuotas)
      .where(eq(organizationQuotas.organizationId, organizationId));
    return;
  }
  const set = { limits, updatedBy: requestedBy, updatedAt: sql`now()` };
  await db
    .insert(organizationQuotas)
    .values({ organizationId, ...set })
    .onConflictDoUpdate({ target: organizationQuotas.organizationId, set });
}

async function findLimits(db: Tx, organizationId: number): Promise<QuotaLimits | undefined> {
  const [row] = await db
    .select({ limits: organizationQuotas.limits })
    .from(organizationQuotas)
    .where(eq(organizationQuotas.organizationId, organizationId));
  return row?.limits;
}

async function statusOf(db: Tx, organizationId: number, limits: QuotaLimits): Promise<QuotaStatus> {
  const { running: _, ...standing } = await countUse(db, organizationId, []);
  return { limits, ...standing };
}

type Counted = QuotaUse & { running: SandboxId[]; creates_free_in_ms: number | null };

/**
 * Use according to the rows. A failed create that left nothing on a host does not count. A paused
 * or stopped sandbox counts as running while it waits to run.
 */
async function countUse(
  db: Tx,
  organizationId: number,
  sandboxIds: SandboxId[],
): Promise<Omit<CountedUse, "limits">> {
  const [row] = await db.execute<Counted>(sql`
    WITH kept AS (
      SELECT id, vcpu, memory_mib, disk_mib,
        state IN ('creating', 'running', 'resuming', 'starting')
        OR (state IN ('pausing', 'stopping') AND settled_state = 'running')
        OR EXISTS (
          SELECT FROM operations
          WHERE sandbox_id = sandboxes.id AND status = 'waiting' AND kind IN ('resume', 'start'))
        OR EXISTS (
          SELECT FROM drain_sandboxes
          WHERE sandbox_id = sandboxes.id AND owes_resume AND ended_at IS NULL)
        OR EXISTS (
          SELECT FROM incarnations
          WHERE sandbox_id = sandboxes.id AND restore_due_at IS NOT NULL) AS runs
      FROM sandboxes
      WHERE organization_id = ${organizationId} AND state NOT IN ('deleting', 'deleted')
        AND NOT (state = 'error' AND host_id IS NULL)
    ), creates AS (
      SELECT created_at FROM operations
      WHERE organization_id = ${organizationId} AND kind = 'create'
        AND created_at > now() - interval '1 minute'
    )
    SELECT
      count(*) FILTER (WHERE runs)::float8 AS running_sandboxes,
      count(*)::float8 AS sandboxes,
      coalesce(sum(vcpu) FILTER (WHERE runs), 0)::float8 AS vcpu,
      coalesce(sum(memory_mib) FILTER (WHERE runs), 0)::float8 AS memory_mb,
      coalesce(sum(disk_mib), 0)::float8 AS disk_mb,
      (SELECT count(*)::float8 FROM creates) AS creates_per_minute,
      (SELECT count(*)::float8 FROM operations
        WHERE organization_id = ${organizationId} AND status = 'waiting') AS waiting_operations,
      (SELECT extract(epoch FROM min(created_at) + interval '1 minute' - now())::float8 * 1000
        FROM creates) AS creates_free_in_ms,
      coalesce(jsonb_agg(id) FILTER (WHERE runs AND ${JSON.stringify(sandboxIds)}::jsonb ? id), '[]')
        AS running
    FROM kept`);
  if (row === undefined) throw new Error("an aggregate gave no row");
  const { running, creates_free_in_ms: createsFreeInMs, ...used } = row;
  return { used, createsFreeInMs, running: new Set(running) };
}
