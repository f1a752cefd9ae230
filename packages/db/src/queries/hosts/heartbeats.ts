/**
 * Heartbeats of many hosts at once. No statement here waits for a locked row of a host: the
 * statement holds rows of other hosts, and two such waits could deadlock.
 *
 * HB1  A sandbox's use is recorded with or before the heartbeat that reports it
 *      (listIdleSandboxes).
 * HB2  For a host, the schedulers compare what has changed since its reconciled inventory, and its
 *      checks. A sandbox that comes to a host or leaves it becomes a check in the same transaction.
 * HB3  A check ends when the host has reported the sandbox after that, the report contains no news,
 *      and no finding is left.
 */
import type { HostId, SandboxId } from "@torpor/contracts";
import type { HostState } from "@torpor/state-machine";
import { type SQL, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import type { SeenReplication } from "../drains/drain-progress.ts";
import type { SeenFetch } from "../operations/operations.ts";
import { MIN_ADVANCE_MS, type SeenActivity } from "../sandboxes/policies.ts";

/** Sandboxes in one heartbeat. A host with more checks has to send a whole inventory. */
export const MAX_CHECKS = 200;
/**
 * Limit of the checks that a host can cause; at the limit, no inventory of the host is reconciled.
 */
const MOST_CHECKS = 2_000;
/**
 * Approximate interval of whole inventories. The time is randomized, because the hosts of a fleet
 * start at once.
 */
const WHOLE_EVERY_MS = 600_000;

export interface HostHeartbeat {
  hostId: HostId;
  load: Record<string, number>;
  activity: SeenActivity[];
  replication: SeenReplication[];
  fetches: SeenFetch[];
}

export interface HostCheck {
  sandboxId: SandboxId;
  version: number;
}

export interface InventoryProgress {
  hostId: HostId;
  state: HostState;
  /** Digest of the inventory that changes refer to; null: a whole inventory is needed. */
  reconciled: string | null;
  /** At most one more than `MAX_CHECKS`. */
  checks: HostCheck[];
}

/** The columns of `InventoryProgress`, from rows of `hosts`. */
export const progressColumns = sql`hosts.id AS "hostId", hosts.state,
  CASE WHEN hosts.reconciled_until > now() THEN hosts.reconciled_inventory END AS "reconciled",
  (SELECT coalesce(jsonb_agg(jsonb_build_object('sandboxId', sandbox_id, 'version', version)), '[]')
    FROM (SELECT sandbox_id, version FROM host_checks WHERE host_id = hosts.id LIMIT ${sql.raw(String(MAX_CHECKS + 1))}) first) AS "checks"`;

/** Records everything in the heartbeats except the inventories. Unknown hosts have no result. */
export async function recordHeartbeats(
  db: Tx,
  heartbeats: HostHeartbeat[],
): Promise<InventoryProgress[]> {
  const heard = heartbeats.map(({ hostId, load }) => ({ hostId, load }));
  const steps = [
    sql`beat AS (SELECT * FROM jsonb_to_recordset(${JSON.stringify(heard)}::jsonb) AS beat("hostId" text, load jsonb))`,
    ...activitySteps(heartbeats),
    ...replicationSteps(heartbeats),
    ...fetchSteps(heartbeats),
    heardStep(heartbeats),
  ];
  const rows = await db.execute(sql`
    WITH ${sql.join(steps, sql`, `)} SELECT ${progressColumns} FROM hosts JOIN beat ON beat."hostId" = hosts.id`);
  return rows as unknown as InventoryProgress[];
}

const flat = <T>(heartbeats: HostHeartbeat[], of: (heartbeat: HostHeartbeat) => T[]) =>
  heartbeats.flatMap((heartbeat) =>
    of(heartbeat).map((one) => ({ ...one, hostId: heartbeat.hostId })),
  );

/** Waits for rows of sandboxes, in order, because a lost use would make a sandbox appear idle. */
function activitySteps(heartbeats: HostHeartbeat[]): SQL[] {
  const seen = flat(heartbeats, ({ activity }) => activity);
  if (seen.length === 0) return [];
  const activeAt = sql`now() - seen."lastActiveMsAgo" * interval '1 millisecond'`;
  return [
    sql`used AS MATERIALIZED (
      SELECT sandboxes.id, ${activeAt} AS active_at
      FROM jsonb_to_recordset(${JSON.stringify(seen)}::jsonb)
        AS seen("hostId" text, "sandboxId" text, "epoch" integer, "lastActiveMsAgo" bigint)
      JOIN sandboxes ON sandboxes.id = seen."sandboxId" AND sandboxes.epoch = seen."epoch"
        AND sandboxes.host_id = seen."hostId"
      WHERE sandboxes.state = 'running' AND sandboxes.auto_pause_idle_seconds IS NOT NULL
        AND (sandboxes.last_active_at IS NULL
          OR sandboxes.last_active_at < ${activeAt} - ${MIN_ADVANCE_MS} * interval '1 millisecond')
      ORDER BY sandboxes.id FOR NO KEY UPDATE OF sandboxes)`,
    sql`activity AS (
      UPDATE sandboxes SET last_active_at = used.active_at FROM used WHERE sandboxes.id = used.id RETURNING sandboxes.id)`,
  ];
}

/** Skips locked rows, because the next heartbeat repeats the progress. */
function replicationSteps(heartbeats: HostHeartbeat[]): SQL[] {
  const seen = flat(heartbeats, ({ replication }) => replication);
  if (seen.length === 0) return [];
  return [
    sql`replication AS (
      UPDATE drain_sandboxes SET bytes_done = free."bytesDone", bytes_total = free."bytesTotal", is_estimate = false,
        progressed_at = CASE WHEN bytes_done = free."bytesDone" THEN progressed_at ELSE now() END
      FROM (SELECT item.drain_id, item.sandbox_id, seen."bytesDone", seen."bytesTotal"
        FROM jsonb_to_recordset(${JSON.stringify(seen)}::jsonb)
          AS seen("hostId" text, "sandboxId" text, "bytesDone" bigint, "bytesTotal" bigint)
        JOIN drain_sandboxes item ON item.sandbox_id = seen."sandboxId" AND item.ended_at IS NULL
        JOIN drains ON drains.id = item.drain_id AND drains.host_id = seen."hostId"
        FOR NO KEY UPDATE OF item SKIP LOCKED) free
      WHERE drain_sandboxes.drain_id = free.drain_id AND drain_sandboxes.sandbox_id = free.sandbox_id)`,
  ];
}

function fetchSteps(heartbeats: HostHeartbeat[]): SQL[] {
  const seen = flat(heartbeats, ({ fetches }) => fetches);
  if (seen.length === 0) return [];
  return [
    sql`fetches AS (
      UPDATE operations SET fetched_bytes = jsonb_build_object('done', free."bytesDone", 'total', free."bytesTotal")
      FROM (SELECT operations.id, seen."bytesDone", seen."bytesTotal"
        FROM jsonb_to_recordset(${JSON.stringify(seen)}::jsonb)
          AS seen("hostId" text, "operationId" text, "bytesDone" bigint, "bytesTotal" bigint)
        JOIN operations ON operations.id = seen."operationId" AND operations.host_id = seen."hostId"
          AND operations.ended_at IS NULL
        FOR NO KEY UPDATE OF operations SKIP LOCKED) free
      WHERE operations.id = free.id)`,
  ];
}

/**
 * Skips a host whose row is locked; its next heartbeat counts. Uses are written first (HB1), so
 * that no host's row is locked while the statement waits for a sandbox's row.
 */
function heardStep(heartbeats: HostHeartbeat[]): SQL {
  const isActivityDone = heartbeats.some(({ activity }) => activity.length > 0)
    ? sql`WHERE (SELECT count(*) FROM activity) >= 0`
    : sql``;
  return sql`heard AS (
    UPDATE hosts SET load = free.load, last_beat_at = now()
    FROM (SELECT hosts.id, beat.load FROM beat JOIN hosts ON hosts.id = beat."hostId" ${isActivityDone}
      FOR NO KEY UPDATE OF hosts SKIP LOCKED) free
    WHERE hosts.id = free.id)`;
}

/** Result of a comparison of a host's report with the database. */
export interface InventoryComparison {
  hostId: HostId;
  /**
   * Digest of the inventory, which agrees with the database except for the checks. Undefined: not
   * known to agree.
   */
  digest: string | undefined;
  /** Digest of the inventory that the changes refer to; undefined: the inventory was whole. */
  since: string | undefined;
  /** Checks that may end, with their versions from before the comparison. */
  ended: HostCheck[];
  /** Sandboxes about which host and database still disagree. */
  open: SandboxId[];
}

export async function recordComparisons(db: Tx, comparisons: InventoryComparison[]): Promise<void> {
  const ended = comparisons.flatMap(({ hostId, ended }) =>
    ended.map((check) => ({ hostId, ...check })),
  );
  const open = comparisons.flatMap(({ hostId, open }) =>
    open.map((sandboxId) => ({ hostId, sandboxId })),
  );
  const reconciled = comparisons.flatMap(({ hostId, digest, since }) =>
    digest === undefined ? [] : [{ hostId, digest, since: since ?? null }],
  );
  const steps = [
    ...(ended.length === 0 ? [] : [endedStep(ended)]),
    ...(open.length === 0 ? [] : [openStep(open)]),
    ...(reconciled.length === 0 ? [] : [reconciledStep(reconciled)]),
  ];
  if (steps.length > 0) await db.execute(sql`WITH ${sql.join(steps, sql`, `)} SELECT 1`);
}

const endedStep = (ended: ({ hostId: HostId } & HostCheck)[]) => sql`ended AS (
  DELETE FROM host_checks USING (
    SELECT host_checks.host_id, host_checks.sandbox_id
    FROM jsonb_to_recordset(${JSON.stringify(ended)}::jsonb) AS seen("hostId" text, "sandboxId" text, version bigint)
    JOIN host_checks ON host_checks.host_id = seen."hostId" AND host_checks.sandbox_id = seen."sandboxId"
      AND host_checks.version = seen.version
    WHERE NOT EXISTS (SELECT 1 FROM host_findings
      WHERE host_findings.host_id = seen."hostId" AND host_findings.sandbox_id = seen."sandboxId")
    FOR UPDATE OF host_checks SKIP LOCKED) free
  WHERE host_checks.host_id = free.host_id AND host_checks.sandbox_id = free.sandbox_id)`;

const openStep = (open: { hostId: HostId; sandboxId: SandboxId }[]) => sql`opened AS (
  INSERT INTO host_checks (host_id, sandbox_id)
  SELECT seen."hostId", seen."sandboxId"
  FROM jsonb_to_recordset(${JSON.stringify(open)}::jsonb) AS seen("hostId" text, "sandboxId" text)
  WHERE (SELECT count(*) FROM host_checks WHERE host_id = seen."hostId") < ${MOST_CHECKS}
  ORDER BY seen."sandboxId", seen."hostId" ON CONFLICT DO NOTHING)`;

/**
 * Changes advance only the inventory that they refer to, and do not postpone the next whole one.
 */
const reconciledStep = (
  reconciled: { hostId: HostId; digest: string; since: string | null }[],
) => sql`reconciled AS (
  UPDATE hosts SET reconciled_inventory = CASE
      WHEN (SELECT count(*) FROM host_checks WHERE host_id = hosts.id) < ${MOST_CHECKS} THEN free.digest END,
    reconciled_until = CASE WHEN free.since IS NULL THEN now() + (0.75 + random() / 2) * ${`${WHOLE_EVERY_MS} milliseconds`}::interval
      ELSE hosts.reconciled_until END
  FROM (SELECT hosts.id, seen.digest, seen.since
    FROM jsonb_to_recordset(${JSON.stringify(reconciled)}::jsonb) AS seen("hostId" text, digest text, since text)
    JOIN hosts ON hosts.id = seen."hostId"
      AND (seen.since IS NULL
        OR hosts.reconciled_inventory = seen.since AND hosts.reconciled_until > now() AND seen.digest <> seen.since)
    FOR NO KEY UPDATE OF hosts SKIP LOCKED) free
  WHERE hosts.id = free.id)`;
