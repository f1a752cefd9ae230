import type { SandboxEventType, SandboxId } from "@torpor/contracts";
import { and, asc, eq, exists, gt, inArray, lte, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { sandboxes, sandboxEvents } from "../../schema.ts";

export type EventRow = typeof sandboxEvents.$inferSelect;

/** Events after `afterSeq`, oldest first. */
export async function listEvents(
  db: Tx,
  sandboxId: SandboxId,
  limit: number,
  afterSeq = 0,
): Promise<EventRow[]> {
  return await db
    .select()
    .from(sandboxEvents)
    .where(and(eq(sandboxEvents.sandboxId, sandboxId), gt(sandboxEvents.seq, afterSeq)))
    .orderBy(asc(sandboxEvents.seq))
    .limit(limit);
}

/** True if the sandbox has had an event of that type since then. */
export async function hasEventSince(
  db: Tx,
  sandboxId: SandboxId,
  fact: SandboxEventType,
  since: Date,
): Promise<boolean> {
  const rows = await db
    .select({ seq: sandboxEvents.seq })
    .from(sandboxEvents)
    .where(
      and(
        eq(sandboxEvents.sandboxId, sandboxId),
        eq(sandboxEvents.fact, fact),
        gt(sandboxEvents.occurredAt, since),
      ),
    )
    .limit(1);
  return rows.length > 0;
}

/**
 * Newest events that are kept per sandbox, because a host's reports can cause any number. The index
 * `sandboxes_eventful` finds sandboxes with more.
 */
export const MAX_EVENTS_OF_SANDBOX = 10_000;

/** Rows per statement: one over the time limit would always fail. The next round deletes more. */
const MAX_PRUNED = 10_000;

/** Deletes the older events of up to `limit` sandboxes. Returns the number of events. */
export async function pruneSandboxEvents(db: Tx, limit: number): Promise<number> {
  const { sandboxId, seq } = sandboxEvents;
  const max = sql.raw(String(MAX_EVENTS_OF_SANDBOX));
  const isBeyond = sql`${seq} <= ${sandboxes.lastSeq} - ${max}`;
  const eventful = db
    .select({ id: sandboxes.id, lastSeq: sandboxes.lastSeq })
    .from(sandboxes)
    .where(
      and(
        sql`${sandboxes.lastSeq} > ${max}`,
        exists(
          db
            .select({ one: sql`1` })
            .from(sandboxEvents)
            .where(and(eq(sandboxId, sandboxes.id), isBeyond)),
        ),
      ),
    )
    .limit(limit);
  let forgotten = 0;
  for (const { id, lastSeq } of await eventful) {
    const isOld = and(eq(sandboxId, id), lte(seq, lastSeq - MAX_EVENTS_OF_SANDBOX));
    const some = db.select({ seq }).from(sandboxEvents).where(isOld).limit(MAX_PRUNED);
    const which = and(eq(sandboxId, id), inArray(seq, some));
    forgotten += (await db.delete(sandboxEvents).where(which).returning({ seq })).length;
  }
  return forgotten;
}
