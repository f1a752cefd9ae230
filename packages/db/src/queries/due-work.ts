/**
 * Kinds of work that the schedulers' rounds may find, read in one statement. Most rounds of a quiet
 * fleet find nothing, and one statement per round would be most of such a fleet's load.
 *
 * No condition is stricter than the list of its round: a kind with work is always in the result,
 * but a kind in the result may have no work.
 */
import { LEASED_STATES } from "@torpor/state-machine";
import { and, inArray, isNotNull, isNull, lt, or, type SQL, sql } from "drizzle-orm";
import type { PgTable } from "drizzle-orm/pg-core";
import type { Tx } from "../database.ts";
import { isOneOf } from "../literals.ts";
import { drains, hosts, incarnations, operations, outbox, sandboxes } from "../schema.ts";
import { isIdleFor } from "./sandboxes/policies.ts";
import { isAlive } from "./sandboxes/sandboxes.ts";

const isPast = (time: Parameters<typeof lt>[0]) => lt(time, sql`now()`);

const WORK = {
  /** Operations that have not begun. */
  waiting: [operations, isOneOf(operations.status, "waiting")],
  /** Operations past their deadline. */
  overdue: [
    operations,
    and(
      isOneOf(operations.status, "waiting", "executing", "outcome_unknown"),
      isNull(operations.committedAt),
      isPast(operations.deadlineAt),
    ),
  ],
  /** Hosts that are lost, or have to be marked as lost. */
  lostHosts: [
    hosts,
    or(
      isOneOf(hosts.state, "lost"),
      and(inArray(hosts.state, [...LEASED_STATES]), isPast(hosts.leaseExpiresAt)),
    ),
  ],
  /** Sandboxes with a pending restore. */
  owedRestores: [incarnations, isPast(incarnations.restoreDueAt)],
  /** Sandboxes whose timeout has run out. */
  expired: [sandboxes, and(isAlive, isPast(sandboxes.expiresAt))],
  /** Sandboxes that their policy may pause. */
  idle: [
    sandboxes,
    and(
      isOneOf(sandboxes.state, "running"),
      isNotNull(sandboxes.autoPauseIdleSeconds),
      isIdleFor(sandboxes.autoPauseIdleSeconds),
    ),
  ],
  /** Sandboxes with a pending delete. */
  deleting: [sandboxes, isOneOf(sandboxes.state, "deleting")],
  /** Drains that have not ended. */
  drains: [drains, isOneOf(drains.status, "active", "undoing")],
  /** Messages that are not published yet. */
  unpublished: [outbox, and(isNull(outbox.publishedAt), isNull(outbox.refusedBecause))],
  /** Messages that can never be published. */
  refused: [outbox, isNotNull(outbox.refusedBecause)],
} satisfies Record<string, [PgTable, SQL | undefined]>;

export type Work = keyof typeof WORK;

const KINDS = Object.keys(WORK) as Work[];

const isThere = ([table, condition]: (typeof WORK)[Work]) =>
  sql`EXISTS (SELECT 1 FROM ${table} WHERE ${condition})`;

const EACH = sql.join(
  KINDS.map((kind) => sql`${isThere(WORK[kind])} AS ${sql.identifier(kind)}`),
  sql`, `,
);

/** The kinds of work that may exist now. */
export async function readDueWork(db: Tx): Promise<ReadonlySet<Work>> {
  const [row]: Record<string, unknown>[] = await db.execute(sql`SELECT ${EACH}`);
  return new Set(KINDS.filter((kind) => row?.[kind] === true));
}
