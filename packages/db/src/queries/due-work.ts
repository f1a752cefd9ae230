/**
 * Which kinds of work there may be for the schedulers' rounds, read in one statement. Most rounds
 * of a quiet fleet find nothing, and a statement for each of them is most of what such a fleet
 * costs.
 *
 * No condition is stricter than the list of the round that goes by it: a kind of which there is
 * work is always among the result; of a kind in the result there may be none.
 */
import { LEASED_STATES } from "@torpor/state-machine";
import { and, inArray, isNotNull, isNull, lt, or, type SQL, sql } from "drizzle-orm";
import type { PgTable } from "drizzle-orm/pg-core";
import type { Tx } from "../database.ts";
import { isOneOf } from "../literals.ts";
import { drains, hosts, incarnations, operations, outbox, sandboxes } from "../schema.ts";
import { isIdleFor } from "./policies.ts";
import { isAlive } from "./sandboxes.ts";

const isPast = (time: Parameters<typeof lt>[0]) => lt(time, sql`now()`);

const WORK = {
  /** Operations that nobody has begun. */
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
  /** Hosts that are lost, or have to be called so. */
  lostHosts: [
    hosts,
    or(
      isOneOf(hosts.state, "lost"),
      and(inArray(hosts.state, [...LEASED_STATES]), isPast(hosts.leaseExpiresAt)),
    ),
  ],
  /** Sandboxes that are owed a restore. */
  owedRestores: [incarnations, isPast(incarnations.restoreDueAt)],
  /** Sandboxes whose timeout has run out. */
  expired: [sandboxes, and(isAlive, isPast(sandboxes.expiresAt))],
  /** Sandboxes that their policy may want to pause. */
  idle: [
    sandboxes,
    and(
      isOneOf(sandboxes.state, "running"),
      isNotNull(sandboxes.autoPauseIdleSeconds),
      isIdleFor(sandboxes.autoPauseIdleSeconds),
    ),
  ],
  /** Sandboxes whose hosts owe a clean-up. */
  deleting: [sandboxes, isOneOf(sandboxes.state, "deleting")],
  /** Drains that are not over. */
  drains: [drains, isOneOf(drains.status, "active", "undoing")],
  /** Messages that are not published yet. */
  unpublished: [outbox, and(isNull(outbox.publishedAt), isNull(outbox.refusedBecause))],
  /** Messages that never will be. */
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

/** The kinds of work of which there may be some now. */
export async function readDueWork(db: Tx): Promise<ReadonlySet<Work>> {
  const [row]: Record<string, unknown>[] = await db.execute(sql`SELECT ${EACH}`);
  return new Set(KINDS.filter((kind) => row?.[kind] === true));
}
