/** Messages that can never be published: kept in the outbox with the reason (`refused_because`). */
import type { OperationId } from "@torpor/contracts";
import { and, desc, gt, inArray, isNotNull, isNull, lt, lte, or, sql } from "drizzle-orm";
import { EXECUTING_STATUSES } from "@torpor/state-machine";
import type { Tx } from "../../database.ts";
import { operations, outbox } from "../../schema.ts";
import type { OperationRow } from "../operations/operations.ts";

const isRefused = isNotNull(outbox.refusedBecause);

/** More than an operator will read. */
const MAX_KEPT = 1_000;

export interface Unsendable {
  operation: OperationRow;
  /** Subject of the message. */
  subject: string;
  reason: string;
}

/**
 * Operations whose next message can never be published: the intent of a waiting operation, or the
 * command of an executing one.
 */
export async function listUnsendable(db: Tx): Promise<Unsendable[]> {
  const { subject, refusedBecause, payload } = outbox;
  const messages = await db
    .select({
      subject,
      reason: refusedBecause,
      type: sql<string | null>`${payload}->>'type'`,
      operationId: sql<OperationId | null>`${payload}->>'operationId'`,
    })
    .from(outbox)
    .where(and(isRefused, gt(outbox.createdAt, sql`now() - interval '1 day'`)))
    .orderBy(desc(outbox.id))
    .limit(MAX_KEPT);
  const ids = messages.flatMap(({ operationId }) => operationId ?? []);
  if (ids.length === 0) return [];
  const isOpen = inArray(operations.status, ["waiting", ...EXECUTING_STATUSES]);
  const open = await db
    .select()
    .from(operations)
    .where(and(inArray(operations.id, ids), isOpen, isNull(operations.committedAt)));
  return open.flatMap((operation) => {
    const missing = operation.status === "waiting" ? "intent" : "command";
    const message = messages.find(
      ({ operationId, type }) => operationId === operation.id && type === missing,
    );
    if (message === undefined) return [];
    return { operation, subject: message.subject, reason: message.reason ?? "" };
  });
}

export interface RefusedMessages {
  /** At most `MAX_KEPT`. */
  count: number;
  oldestAt: Date;
  newest: { subject: string; reason: string };
}

/** Refused messages of the last `withinMs`; undefined: none. */
export async function summarizeRefused(
  db: Tx,
  withinMs: number,
): Promise<RefusedMessages | undefined> {
  const { subject, refusedBecause: reason, createdAt } = outbox;
  const isRecent = sql`${createdAt} > now() - ${`${withinMs} milliseconds`}::interval`;
  const rows = await db
    .select({ subject, reason, createdAt })
    .from(outbox)
    .where(and(isRefused, isRecent))
    .orderBy(desc(outbox.id))
    .limit(MAX_KEPT);
  const [newest, oldest] = [rows[0], rows.at(-1)];
  if (newest === undefined || oldest === undefined) return undefined;
  return {
    count: rows.length,
    oldestAt: oldest.createdAt,
    newest: { subject: newest.subject, reason: newest.reason ?? "" },
  };
}

/** Number of refused messages that are kept. */
export async function countRefused(db: Tx): Promise<number> {
  return await db.$count(outbox, isRefused);
}

/** Deletes those that are older than `olderThanMs`, or beyond the newest. Returns how many. */
export async function pruneRefused(db: Tx, olderThanMs: number): Promise<number> {
  const beyond = db
    .select({ id: outbox.id })
    .from(outbox)
    .where(isRefused)
    .orderBy(desc(outbox.id))
    .offset(MAX_KEPT)
    .limit(1);
  const isOld = lt(outbox.createdAt, sql`now() - ${`${olderThanMs} milliseconds`}::interval`);
  const gone = await db
    .delete(outbox)
    .where(and(isRefused, or(isOld, lte(outbox.id, beyond))))
    .returning({ id: outbox.id });
  return gone.length;
}
