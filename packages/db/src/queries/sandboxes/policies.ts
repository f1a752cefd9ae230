/** Settings of a living sandbox that a user may change, and the idle clock of auto-pause. */
import {
  MAX_METADATA_NAMES,
  type OnHostLoss,
  type PreviewAccess,
  type PreviewHost,
  type SandboxEventType,
  type SandboxId,
} from "@torpor/contracts";
import { and, asc, eq, getTableColumns, isNotNull, ne, type SQL, sql } from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { isOneOf } from "../../literals.ts";
import { hosts, sandboxes } from "../../schema.ts";
import type { OutboxRow } from "../outbox/outbox.ts";
import type { SandboxRow } from "./sandbox-row.ts";
import { changeSandbox } from "./sandboxes.ts";

/** Requester of pauses by the idle policy. */
export const AUTO_PAUSER = "system:auto-pause";

export interface SandboxChange {
  /** Null: no auto-pause. */
  autoPauseIdleSeconds?: number | null | undefined;
  autoResume?: boolean | undefined;
  previewAccess?: PreviewAccess | undefined;
  previewHost?: PreviewHost | undefined;
  /** Applies from the next run on. */
  onHostLoss?: OnHostLoss | undefined;
  /** Merged name by name; null removes a name. */
  metadata?: Record<string, string | null> | undefined;
}

export type Patched =
  | { kind: "patched"; messages: OutboxRow[] }
  | { kind: "not_found" }
  | { kind: "too_much_metadata" };

/**
 * Applies the fields that are set, in any state except deleted. A new auto-pause policy restarts
 * the idle clock.
 */
export async function patchSandbox(
  db: Database,
  id: SandboxId,
  organizationId: number,
  change: SandboxChange,
): Promise<Patched> {
  const { autoPauseIdleSeconds, autoResume, previewAccess, previewHost, onHostLoss } = change;
  let tooMuch = false;
  const changed = await changeSandbox(db, id, organizationId, (sandbox) => {
    const metadata = merged(sandbox.metadata, change.metadata ?? {});
    tooMuch = Object.keys(metadata).length > MAX_METADATA_NAMES;
    if (tooMuch) return undefined;
    return {
      fact: "settings_changed",
      patch: {
        metadata,
        ...(autoPauseIdleSeconds === undefined
          ? {}
          : { autoPauseIdleSeconds, lastActiveAt: new Date() }),
        ...(autoResume === undefined ? {} : { autoResume }),
        ...(previewAccess === undefined ? {} : { previewAccess }),
        ...(previewHost === undefined ? {} : { previewHost }),
        ...(onHostLoss === undefined ? {} : { onHostLoss }),
      },
    };
  });
  if (changed !== undefined) return { kind: "patched", messages: changed.messages };
  return { kind: tooMuch ? "too_much_metadata" : "not_found" };
}

function merged(
  current: Record<string, string>,
  changes: Record<string, string | null>,
): Record<string, string> {
  const all = Object.entries({ ...current, ...changes });
  return Object.fromEntries(all.filter((entry): entry is [string, string] => entry[1] !== null));
}

export interface SeenActivity {
  sandboxId: SandboxId;
  epoch: number;
  lastActiveMsAgo: number;
}

/** A smaller advance is not worth a write. */
export const MIN_ADVANCE_MS = 500;

/** After a shorter sleep, the pause and the resume have cost more than they saved. */
const SHORT_SLEEP_S = 60;
/** One short sleep per hour is free; each further one doubles the idle time, up to this limit. */
const MAX_DELAYED_IDLE_S = 600;

/** Resumes of the last hour, by any requester, shortly after an automatic pause. */
const shortSleeps = sql<number>`(
  SELECT count(*)::integer FROM operations wake
  WHERE wake.sandbox_id = ${sandboxes.id} AND wake.kind = 'resume' AND wake.created_at > now() - interval '1 hour'
    AND EXISTS (
      SELECT 1 FROM operations sleep
      WHERE sleep.sandbox_id = wake.sandbox_id AND sleep.kind = 'pause' AND sleep.status = 'succeeded'
        AND sleep.requested_by = ${AUTO_PAUSER} AND sleep.created_at < wake.created_at
        AND sleep.ended_at > wake.created_at - ${SHORT_SLEEP_S} * interval '1 second'
        AND sleep.created_at > now() - interval '2 hours'))`;

/** Idle seconds before a pause: the policy's, or more while the sandbox's sleeps are short. */
const idleSecondsNow = sql<number>`least(
  ${sandboxes.autoPauseIdleSeconds} * power(2, least(greatest(${shortSleeps} - 1, 0), 20)),
  greatest(${sandboxes.autoPauseIdleSeconds}, ${MAX_DELAYED_IDLE_S}))::integer`;

const unusedFor = (seconds: SQL | typeof sandboxes.autoPauseIdleSeconds) =>
  sql`${hosts.lastHeartbeatAt} >= ${sandboxes.lastActiveAt} + ${seconds} * interval '1 second' + ${MIN_ADVANCE_MS} * interval '1 millisecond'`;

/** That many seconds have passed since the last use; worded as in index sandboxes_auto_pause. */
export const isIdleFor = (seconds: typeof sandboxes.autoPauseIdleSeconds) =>
  sql`(${sandboxes.lastActiveAt} AT TIME ZONE 'UTC' + ${seconds} * interval '1 second') < now() AT TIME ZONE 'UTC'`;

const isIdleByPolicy = and(
  isOneOf(sandboxes.state, "running"),
  isNotNull(sandboxes.autoPauseIdleSeconds),
  // Implied by `unusedFor`, because no heartbeat is later than now; needed for the index.
  isIdleFor(sandboxes.autoPauseIdleSeconds),
  ne(hosts.state, "lost"),
  sql`${hosts.lastHeartbeatAt} > now() - interval '10 seconds'`,
  unusedFor(sandboxes.autoPauseIdleSeconds),
  sql`NOT EXISTS (SELECT 1 FROM operations open WHERE open.sandbox_id = ${sandboxes.id} AND open.status IN ('waiting', 'executing', 'outcome_unknown'))`,
);

export interface IdleSandbox {
  sandbox: SandboxRow;
  idleSeconds: number;
  shortSleeps: number;
}

/**
 * Running sandboxes without an open operation that were idle for the time of their policy at the
 * host's last heartbeat. A heartbeat that is too old proves nothing. Longest idle first. A use that
 * `recordHeartbeats` does not write counts as activity, because the host would give the pause up.
 */
export async function listIdleSandboxes(db: Tx, limit: number): Promise<IdleSandbox[]> {
  return await db
    .select({ sandbox: getTableColumns(sandboxes), idleSeconds: idleSecondsNow, shortSleeps })
    .from(sandboxes)
    .innerJoin(hosts, eq(hosts.id, sandboxes.hostId))
    .where(and(isIdleByPolicy, unusedFor(idleSecondsNow)))
    .orderBy(asc(sandboxes.lastActiveAt))
    .limit(limit);
}

/**
 * Sandboxes that keep running past their policy because their sleeps were short; each once after
 * each resume, until it has an event of type `fact`.
 */
export async function listDelayedPauses(
  db: Tx,
  fact: SandboxEventType,
  limit: number,
): Promise<IdleSandbox[]> {
  return await db
    .select({ sandbox: getTableColumns(sandboxes), idleSeconds: idleSecondsNow, shortSleeps })
    .from(sandboxes)
    .innerJoin(hosts, eq(hosts.id, sandboxes.hostId))
    .where(
      and(
        isIdleByPolicy,
        sql`NOT ${unusedFor(idleSecondsNow)}`,
        sql`NOT EXISTS (
          SELECT 1 FROM sandbox_events told WHERE told.sandbox_id = ${sandboxes.id} AND told.fact = ${fact}
            AND told.occurred_at > (SELECT max(wake.created_at) FROM operations wake WHERE wake.sandbox_id = ${sandboxes.id} AND wake.kind = 'resume'))`,
      ),
    )
    .limit(limit);
}
