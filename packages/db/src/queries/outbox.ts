/** The outbox: rows written with the change they announce, published after the commit. Readers take "unpublished", never "id greater than the last": ids become visible out of order. */
import { and, asc, inArray, isNotNull, isNull, lt, sql } from "drizzle-orm";
import type { Database, Tx } from "../client.ts";
import { outbox } from "../schema.ts";

export type OutboxRow = Pick<typeof outbox.$inferSelect, "id" | "subject" | "payload" | "traceId">;

/**
 * Takes up to `limit` unpublished messages, hands them to `publish`, and marks those it reports as published. Rows are locked meanwhile, so that relays share the work;
 * a crash in between publishes again under the same message id. Returns how many were taken and how many were published.
 */
export async function relayOutbox(
  db: Database,
  options: { limit: number; olderThanMs: number },
  publish: (rows: OutboxRow[]) => Promise<number[]>,
): Promise<{ taken: number; published: number }> {
  return await db.transaction(async (tx) => {
    const rows = await tx
      .select({ id: outbox.id, subject: outbox.subject, payload: outbox.payload, traceId: outbox.traceId })
      .from(outbox)
      .where(and(isNull(outbox.publishedAt), lt(outbox.createdAt, sql`now() - ${`${options.olderThanMs} milliseconds`}::interval`)))
      .orderBy(asc(outbox.id))
      .limit(options.limit)
      .for("update", { skipLocked: true });
    if (rows.length === 0) return { taken: 0, published: 0 };
    const published = await publish(rows);
    await markPublished(tx, published);
    return { taken: rows.length, published: published.length };
  });
}

/** The fast path: the committer publishes what it wrote at once. */
export async function findOutbox(db: Tx, ids: number[]): Promise<OutboxRow[]> {
  if (ids.length === 0) return [];
  return await db
    .select({ id: outbox.id, subject: outbox.subject, payload: outbox.payload, traceId: outbox.traceId })
    .from(outbox)
    .where(and(inArray(outbox.id, ids), isNull(outbox.publishedAt)))
    .orderBy(asc(outbox.id));
}

export async function markPublished(db: Tx, ids: number[]): Promise<void> {
  if (ids.length === 0) return;
  await db
    .update(outbox)
    .set({ publishedAt: sql`now()` })
    .where(inArray(outbox.id, ids));
}

/** Deletes published messages older than `olderThanMs`. Returns how many. */
export async function pruneOutbox(db: Tx, olderThanMs: number): Promise<number> {
  const rows = await db
    .delete(outbox)
    .where(and(isNotNull(outbox.publishedAt), lt(outbox.publishedAt, sql`now() - ${`${olderThanMs} milliseconds`}::interval`)))
    .returning({ id: outbox.id });
  return rows.length;
}
