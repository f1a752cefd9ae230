/**
 * What a user may change about a living sandbox beside its state, and the idle clock that
 * auto-pause goes by.
 */
import {
  MAX_METADATA_NAMES,
  type OnHostLoss,
  type PreviewAccess,
  type PreviewHost,
  type SandboxEventType,
} from "@torpor/contracts";
import { and, asc, eq, getTableColumns, isNotNull, ne, type SQL, sql } from "drizzle-orm";
import type { Database, Tx } from "../database.ts";
import { isOneOf } from "../literals.ts";
import { hosts, sandboxes } from "../schema.ts";
import type { SandboxRow } from "./move-sandbox.ts";
import type { OutboxRow } from "./outbox.ts";
import { changeSandbox } from "./sandboxes.ts";

/** Who asks for a pause because nobody uses the sandbox. */
export const AUTO_PAUSER = "system:auto-pause";

export interface SandboxChange {
  /** Null: never. */
  autoPauseIdleSeconds?: number | null | undefined;
  autoResume?: boolean | undefined;
  previewAccess?: PreviewAccess | undefined;
  previewHost?: PreviewHost | undefined;
  /** Counts from the next run on. */
  onHostLoss?: OnHostLoss | undefined;
  /** Merged name by name; null removes a name. */
  metadata?: Record<string, string | null> | undefined;
}

export type Patched =
  | { kind: "patched"; messages: OutboxRow[] }
  | { kind: "not_found" }
  | { kind: "too_much_metadata" };

/**
 * Applies the fields that are there, in any state but deleted. A new auto-pause policy starts the
 * idle clock anew.
 */
export async function patchSandbox(
  db: Database,
  id: string,
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
  sandboxId: string;
  epoch: number;
  lastActiveMsAgo: number;
}

/** Less of an advance is not worth a write. */
export const MIN_ADVANCE_MS = 500;

/**
 * A sandbox that slept for less was paused for nothing: the pause and the resume cost more than
 * they saved.
 */
const SHORT_SLEEP_S = 60;
/** One in an hour may be; with each further one the idle time is doubled, up to so much. */
const MAX_DELAYED_IDLE_S = 600;

/**
 * How often in the last hour a sandbox was resumed, by whomever, right after a pause for want of
 * use.
 */
const shortSleeps = sql<number>`(
  SELECT count(*)::integer FROM operations wake
  WHERE wake.sandbox_id = ${sandboxes.id} AND wake.kind = 'resume' AND wake.created_at > now() - interval '1 hour'
    AND EXISTS (
      SELECT 1 FROM operations sleep
      WHERE sleep.sandbox_id = wake.sandbox_id AND sleep.kind = 'pause' AND sleep.status = 'succeeded'
        AND sleep.requested_by = ${AUTO_PAUSER} AND sleep.created_at < wake.created_at
        AND sleep.ended_at > wake.created_at - ${SHORT_SLEEP_S} * interval '1 second'
        AND sleep.created_at > now() - interval '2 hours'))`;

/**
 * Seconds without use after which it is paused: those of its policy, or more while its sleeps are
 * short.
 */
const idleSecondsNow = sql<number>`least(
  ${sandboxes.autoPauseIdleSeconds} * power(2, least(greatest(${shortSleeps} - 1, 0), 20)),
  greatest(${sandboxes.autoPauseIdleSeconds}, ${MAX_DELAYED_IDLE_S}))::integer`;

const unusedFor = (seconds: SQL | typeof sandboxes.autoPauseIdleSeconds) =>
  sql`${hosts.lastBeatAt} >= ${sandboxes.lastActiveAt} + ${seconds} * interval '1 second' + ${MIN_ADVANCE_MS} * interval '1 millisecond'`;

/** So many seconds have passed since its last use; as the index (sandboxes_auto_pause) has it. */
export const isIdleFor = (seconds: typeof sandboxes.autoPauseIdleSeconds) =>
  sql`(${sandboxes.lastActiveAt} AT TIME ZONE 'UTC' + ${seconds} * interval '1 second') < now() AT TIME ZONE 'UTC'`;

const isIdleByPolicy = and(
  isOneOf(sandboxes.state, "running"),
  isNotNull(sandboxes.autoPauseIdleSeconds),
  // The host's last word is no later than now.
  isIdleFor(sandboxes.autoPauseIdleSeconds),
  ne(hosts.state, "lost"),
  sql`${hosts.lastBeatAt} > now() - interval '10 seconds'`,
  unusedFor(sandboxes.autoPauseIdleSeconds),
  sql`NOT EXISTS (SELECT 1 FROM operations open WHERE open.sandbox_id = ${sandboxes.id} AND open.status IN ('waiting', 'executing', 'outcome_unknown'))`,
);

export interface IdleSandbox {
  sandbox: SandboxRow;
  idleSeconds: number;
  shortSleeps: number;
}

/**
 * Running sandboxes with nothing in flight that had been idle for as long as they may when their
 * host last spoke: its word is what is known, and a host that has been silent for a while says
 * nothing. Longest idle first. What `recordHeartbeats` leaves unwritten counts as activity: the
 * host would give the pause up.
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
 * Those that their policy would have paused, and that run on because their sleeps were short; each
 * once after each resume that has no event of this name yet.
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
