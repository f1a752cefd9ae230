/**
 * The outbox: rows that are written with the change that they announce, and published after the
 * commit. Readers select "unpublished", never "id greater than the last": ids become visible out of
 * order. Readers go kind by kind, so that a message never waits behind those of another stream.
 */
import { and, asc, eq, isNull, lt, sql } from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { kindOfMessage } from "../../message-kind.ts";
import { outbox } from "../../schema.ts";

export type OutboxRow = Pick<typeof outbox.$inferSelect, "id" | "subject" | "payload" | "traceId">;

export interface OutboxMessage {
  subject: string;
  payload: unknown;
  traceId?: string | null | undefined;
}

/** Writes messages of a transaction without a plan. */
export async function insertOutbox(tx: Tx, messages: OutboxMessage[]): Promise<OutboxRow[]> {
  if (messages.length === 0) return [];
  const written = messages.map(({ subject, payload, traceId = null }) => ({
    subject,
    payload,
    traceId,
  }));
  const rows = await tx.insert(outbox).values(written).returning({ id: outbox.id });
  return rows.flatMap(({ id }, index) => {
    const message = written[index];
    return message === undefined ? [] : [{ id, ...message }];
  });
}

const isDue = and(isNull(outbox.publishedAt), isNull(outbox.refusedBecause));
const kind = kindOfMessage(outbox.subject);

/** Kinds of waiting messages: one index lookup per kind, however many rows there are. */
const kindsCte = sql`kinds AS (
  (SELECT ${kind} AS kind FROM ${outbox} WHERE ${isDue} ORDER BY 1 LIMIT 1)
  UNION ALL
  SELECT next.kind FROM kinds CROSS JOIN LATERAL (
    SELECT ${kind} AS kind FROM ${outbox} WHERE ${isDue} AND ${kind} > kinds.kind
    ORDER BY 1 LIMIT 1) next)`;

/** Kinds of which the oldest message has waited for more than `olderThanMs`. */
export async function listWaitingKinds(db: Tx, olderThanMs: number): Promise<string[]> {
  const rows = await db.execute<{ kind: string }>(sql`
    WITH RECURSIVE ${kindsCte}
    SELECT kinds.kind FROM kinds CROSS JOIN LATERAL (
      SELECT created_at FROM ${outbox} WHERE ${isDue} AND ${kind} = kinds.kind
      ORDER BY id LIMIT 1) oldest
    WHERE oldest.created_at < now() - ${`${olderThanMs} milliseconds`}::interval`);
  return rows.map((row: { kind: string }) => row.kind);
}

/** Result of publishing; messages in neither list still wait. */
export interface OutboxOutcome {
  published: number[];
  refused: { id: number; reason: string }[];
}

/**
 * Takes up to `limit` unpublished messages of a kind, passes them to `publish`, and marks those
 * that it reports as published or refused. The rows are locked meanwhile, so that relays share the
 * work. After a crash in between, messages are published again under the same id. Returns how many
 * were taken and published.
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
  /** Age of the oldest message, by the database's clock. */
  ageMs: number;
  /** At most 1,000; `isCounted`: the number is exact. */
  count: number;
  isCounted: boolean;
}

const MOST_COUNTED = 1_000;

/** The backlog; undefined: nothing waits. Reads a bounded number of rows of each kind. */
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

/** Rows per statement: a statement over the time limit would fail in every round. */
const MAX_PRUNED = 10_000;
/** Enough for more than is published between two rounds. */
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
