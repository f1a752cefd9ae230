/**
 * The outbox: rows written with the change they announce, published after the commit. Readers take
 * "unpublished", never "id greater than the last": ids become visible out of order. Whoever looks
 * for some goes kind by kind, so that those of one stream never stand behind those of another.
 */
import { and, asc, eq, isNull, lt, sql } from "drizzle-orm";
import type { Database, Tx } from "../database.ts";
import { kindOfMessage } from "../message-kind.ts";
import { outbox } from "../schema.ts";

export type OutboxRow = Pick<typeof outbox.$inferSelect, "id" | "subject" | "payload" | "traceId">;

const isDue = and(isNull(outbox.publishedAt), isNull(outbox.refusedBecause));
const kind = kindOfMessage(outbox.subject);

/** Of what waits; one look into an index for each, however many rows there are. */
const kindsCte = sql`kinds AS (
  (SELECT ${kind} AS kind FROM ${outbox} WHERE ${isDue} ORDER BY 1 LIMIT 1)
  UNION ALL
  SELECT next.kind FROM kinds CROSS JOIN LATERAL (
    SELECT ${kind} AS kind FROM ${outbox} WHERE ${isDue} AND ${kind} > kinds.kind
    ORDER BY 1 LIMIT 1) next)`;

/** Kinds of message of which the oldest has waited for so long. */
export async function listWaitingKinds(db: Tx, olderThanMs: number): Promise<string[]> {
  const rows = await db.execute<{ kind: string }>(sql`
    WITH RECURSIVE ${kindsCte}
    SELECT kinds.kind FROM kinds CROSS JOIN LATERAL (
      SELECT created_at FROM ${outbox} WHERE ${isDue} AND ${kind} = kinds.kind
      ORDER BY id LIMIT 1) oldest
    WHERE oldest.created_at < now() - ${`${olderThanMs} milliseconds`}::interval`);
  return rows.map((row: { kind: string }) => row.kind);
}

/** What came of messages that were to be published; of those that are in neither, nothing yet. */
export interface OutboxOutcome {
  published: number[];
  refused: { id: number; reason: string }[];
}

/**
 * Takes up to `limit` unpublished messages of a kind, hands them to `publish`, and marks those it
 * reports as published or refused. Rows are locked meanwhile, so that relays share the work; a
 * crash in between publishes again under the same message id. Returns how many were taken and how
 * many were published.
 */
export async function relayOutbox(
  db: Database,
  options: { kind: string; limit: number; olderThanMs: number },
  publish: (rows: OutboxRow[]) => Promise<OutboxOutcome>,
): Promise<{ taken: number; published: number }> {
  const before = sql`now() - ${`${options.olderThanMs} milliseconds`}::interval`;
  return await db.transaction(async (tx) => {
    const rows = await tx
      .select({
        id: outbox.id,
        subject: outbox.subject,
        payload: outbox.payload,
        traceId: outbox.traceId,
      })
      .from(outbox)
      .where(and(isDue, eq(kind, options.kind), lt(outbox.createdAt, before)))
      .orderBy(asc(outbox.id))
      .limit(options.limit)
      .for("update", { skipLocked: true });
    if (rows.length === 0) return { taken: 0, published: 0 };
    const outcome = await publish(rows);
    await markOutcomes(tx, [outcome]);
    return { taken: rows.length, published: outcome.published.length };
  });
}

export async function markPublished(db: Tx, ids: number[]): Promise<void> {
  if (ids.length === 0) return;
  await db.execute(sql`SELECT mark_published(${JSON.stringify(ids)}::jsonb)`);
}

export async function markOutcomes(db: Tx, outcomes: OutboxOutcome[]): Promise<void> {
  await markPublished(
    db,
    outcomes.flatMap(({ published }) => published),
  );
  for (const { id, reason } of outcomes.flatMap(({ refused }) => refused))
    await db.update(outbox).set({ refusedBecause: reason }).where(eq(outbox.id, id));
}

export interface OutboxBacklog {
  oldestAt: Date;
  /** Of the oldest, by the database's clock. */
  ageMs: number;
  /** At most 1,000; `isCounted`: it is all of them. */
  count: number;
  isCounted: boolean;
}

const MOST_COUNTED = 1_000;

/**
 * What waits to be published; undefined: nothing. It looks at so many rows of each kind at most.
 */
export async function measureOutbox(db: Tx): Promise<OutboxBacklog | undefined> {
  const [row] = await db.execute<{ oldestAt: string | null; ageMs: number; count: number }>(sql`
    WITH RECURSIVE ${kindsCte}
    SELECT min(few.created_at) AS "oldestAt", count(*)::int AS count,
      coalesce(extract(epoch FROM now() - min(few.created_at)) * 1000, 0)::float8 AS "ageMs"
    FROM kinds CROSS JOIN LATERAL (
      SELECT created_at FROM ${outbox} WHERE ${isDue} AND ${kind} = kinds.kind
      ORDER BY id LIMIT ${sql.raw(String(MOST_COUNTED + 1))}) few`);
  if (row === undefined || row.oldestAt === null) return undefined;
  const { ageMs, count } = row;
  const isCounted = count <= MOST_COUNTED;
  return {
    oldestAt: new Date(row.oldestAt),
    ageMs,
    count: Math.min(count, MOST_COUNTED),
    isCounted,
  };
}

/** In one statement: one that takes too long would never end. */
const MAX_PRUNED = 10_000;
/** More than are published in the time of a round. */
const MAX_STATEMENTS = 50;

/** Deletes published messages older than `olderThanMs`. Returns how many. */
export async function pruneOutbox(db: Tx, olderThanMs: number): Promise<number> {
  const isOld = lt(outbox.publishedAt, sql`now() - ${`${olderThanMs} milliseconds`}::interval`);
  const some = db
    .select({ id: outbox.id })
    .from(outbox)
    .where(isOld)
    .orderBy(asc(outbox.publishedAt))
    .limit(MAX_PRUNED);
  let pruned = 0;
  for (let statement = 0; statement < MAX_STATEMENTS; statement += 1) {
    const { count } = (await db
      .delete(outbox)
      .where(sql`${outbox.id} = ANY(ARRAY(${some}))`)) as unknown as { count: number };
    pruned += count;
    if (count < MAX_PRUNED) break;
  }
  return pruned;
}
