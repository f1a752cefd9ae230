/**
 * Heartbeats of many hosts at once. None of these statements waits for a host's row that somebody
 * else holds: they hold rows of other hosts meanwhile, and whoever waits for two would wait for
 * ever.
 *
 * HB1  A sandbox's use is recorded with or before the beat that tells of it (listIdleSandboxes).
 * HB2  What is to be compared of a host is what has changed since its reconciled inventory, and
 *      its checks: a sandbox that comes to a host or leaves it becomes one in the same
 *      transaction.
 * HB3  A check ends when the host has reported of the sandbox after that, nothing of it is news,
 *      and no finding is left.
 */
import type { HostState } from "@torpor/state-machine";
import { type SQL, sql } from "drizzle-orm";
import type { Tx } from "../database.ts";
import type { SeenReplication } from "./drain-progress.ts";
import type { SeenFetch } from "./operations.ts";
import { MIN_ADVANCE_MS, type SeenActivity } from "./policies.ts";

/** As many sandboxes as one beat reports. Of a host with more a whole inventory is wanted. */
export const MAX_CHECKS = 200;
/**
 * What a host makes up by itself is kept up to so many; with as many none of its inventories is
 * reconciled.
 */
const MOST_CHECKS = 2_000;
/**
 * After about so long a whole inventory is wanted, whatever has changed. Hosts do not take turns by
 * themselves: a fleet is started at once.
 */
const WHOLE_EVERY_MS = 600_000;

export interface HostHeartbeat {
  hostId: string;
  load: Record<string, number>;
  activity: SeenActivity[];
  replication: SeenReplication[];
  fetches: SeenFetch[];
}

export interface HostCheck {
  sandboxId: string;
  version: number;
}

export interface InventoryProgress {
  hostId: string;
  state: HostState;
  /** Digest of the inventory that changes are told since; null: a whole one is wanted. */
  reconciled: string | null;
  /** At most one more than `MAX_CHECKS`. */
  checks: HostCheck[];
}

/** Of rows of `hosts`. */
export const progressColumns = sql`hosts.id AS "hostId", hosts.state,
  CASE WHEN hosts.reconciled_until > now() THEN hosts.reconciled_inventory END AS "reconciled",
  (SELECT coalesce(jsonb_agg(jsonb_build_object('sandboxId', sandbox_id, 'version', version)), '[]')
    FROM (SELECT sandbox_id, version FROM host_checks WHERE host_id = hosts.id LIMIT ${sql.raw(String(MAX_CHECKS + 1))}) first) AS "checks"`;

/** Records what they say beside their inventories. Hosts that are not known have no standing. */
export async function recordHeartbeats(
  db: Tx,
  beats: HostHeartbeat[],
): Promise<InventoryProgress[]> {
  const heard = beats.map(({ hostId, load }) => ({ hostId, load }));
  const steps = [
    sql`beat AS (SELECT * FROM jsonb_to_recordset(${JSON.stringify(heard)}::jsonb) AS beat("hostId" text, load jsonb))`,
    ...activitySteps(beats),
    ...replicationSteps(beats),
    ...fetchSteps(beats),
    heardStep(beats),
  ];
  const rows = await db.execute(sql`
    WITH ${sql.join(steps, sql`, `)} SELECT ${progressColumns} FROM hosts JOIN beat ON beat."hostId" = hosts.id`);
  return rows as unknown as InventoryProgress[];
}

const flat = <T>(beats: HostHeartbeat[], of: (beat: HostHeartbeat) => T[]) =>
  beats.flatMap((beat) => of(beat).map((one) => ({ ...one, hostId: beat.hostId })));

/** Rows of sandboxes are waited for, in order: a use that is left out would make a sandbox idle. */
function activitySteps(beats: HostHeartbeat[]): SQL[] {
  const seen = flat(beats, ({ activity }) => activity);
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

/** How far copies are is said again with the next beat: rows that somebody holds are left out. */
function replicationSteps(beats: HostHeartbeat[]): SQL[] {
  const seen = flat(beats, ({ replication }) => replication);
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

function fetchSteps(beats: HostHeartbeat[]): SQL[] {
  const seen = flat(beats, ({ fetches }) => fetches);
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
 * A host whose row is held is heard with its next beat. The uses first (HB1), so that no host's row
 * is held while a sandbox's is waited for.
 */
function heardStep(beats: HostHeartbeat[]): SQL {
  const isActivityDone = beats.some(({ activity }) => activity.length > 0)
    ? sql`WHERE (SELECT count(*) FROM activity) >= 0`
    : sql``;
  return sql`heard AS (
    UPDATE hosts SET load = free.load, last_beat_at = now()
    FROM (SELECT hosts.id, beat.load FROM beat JOIN hosts ON hosts.id = beat."hostId" ${isActivityDone}
      FOR NO KEY UPDATE OF hosts SKIP LOCKED) free
    WHERE hosts.id = free.id)`;
}

/** What came of comparing what a host has reported. */
export interface InventoryComparison {
  hostId: string;
  /**
   * That inventory agrees with the database, but for the checks. Undefined: it is not known whether
   * it does.
   */
  digest: string | undefined;
  /** The changes that were compared were told since this one; undefined: a whole inventory was. */
  since: string | undefined;
  /** Checks that may end, as they were before the comparison. */
  ended: HostCheck[];
  /** Sandboxes about which host and database do not agree yet. */
  open: string[];
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

const endedStep = (ended: ({ hostId: string } & HostCheck)[]) => sql`ended AS (
  DELETE FROM host_checks USING (
    SELECT host_checks.host_id, host_checks.sandbox_id
    FROM jsonb_to_recordset(${JSON.stringify(ended)}::jsonb) AS seen("hostId" text, "sandboxId" text, version bigint)
    JOIN host_checks ON host_checks.host_id = seen."hostId" AND host_checks.sandbox_id = seen."sandboxId"
      AND host_checks.version = seen.version
    WHERE NOT EXISTS (SELECT 1 FROM host_findings
      WHERE host_findings.host_id = seen."hostId" AND host_findings.sandbox_id = seen."sandboxId")
    FOR UPDATE OF host_checks SKIP LOCKED) free
  WHERE host_checks.host_id = free.host_id AND host_checks.sandbox_id = free.sandbox_id)`;

const openStep = (open: { hostId: string; sandboxId: string }[]) => sql`opened AS (
  INSERT INTO host_checks (host_id, sandbox_id)
  SELECT seen."hostId", seen."sandboxId"
  FROM jsonb_to_recordset(${JSON.stringify(open)}::jsonb) AS seen("hostId" text, "sandboxId" text)
  WHERE (SELECT count(*) FROM host_checks WHERE host_id = seen."hostId") < ${MOST_CHECKS}
  ORDER BY seen."sandboxId", seen."hostId" ON CONFLICT DO NOTHING)`;

/**
 * Changes advance the inventory that they were told since, and nothing else; the time until a whole
 * one is wanted goes on.
 */
const reconciledStep = (
  reconciled: { hostId: string; digest: string; since: string | null }[],
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
