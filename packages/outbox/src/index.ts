/**
 * From the outbox to the bus, after the commit. The committer publishes its own rows at once; the relay takes what was left: by an outage, or by a committer that died.
 *
 * OB1  A row is marked as published only when the broker has stored its message. A crash in between publishes again under the same id, which the stream stores once.
 */
import { type Bus, publish } from "@torpor/bus";
import { type Database, findOutbox, markPublished, type OutboxRow, relayOutbox } from "@torpor/db";

const RELAY_BATCH = 200;
/** The committer publishes first; the relay takes what is older than this. */
const RELAY_AFTER_MS = 500;

interface OutboxLog {
  warn(facts: object, message: string): void;
}

/** Publishes committed rows now. What fails, or is not even tried because the bus is away, is left to the relay. Never rejects. */
export async function publishCommitted(deps: { db: Database; bus: Bus | undefined; log: OutboxLog }, outboxIds: number[]): Promise<void> {
  const { db, bus, log } = deps;
  if (bus === undefined || !bus.isConnected()) return;
  try {
    await markPublished(db, await publishRows(bus, await findOutbox(db, outboxIds)));
  } catch (err) {
    log.warn({ err }, "committed messages could not be published at once; the relay will");
  }
}

/** One round of the relay: what is unpublished and not fresh. Any number of relays may run. */
export async function relayCommitted(db: Database, bus: Bus): Promise<{ taken: number; published: number }> {
  return await relayOutbox(db, { limit: RELAY_BATCH, olderThanMs: RELAY_AFTER_MS }, (rows) => publishRows(bus, rows));
}

/** Ids of what the broker has stored. It stops at the first that could not be: the rest would fare the same. */
async function publishRows(bus: Bus, rows: OutboxRow[]): Promise<number[]> {
  const published: number[] = [];
  for (const { id, subject, payload, traceId } of rows) {
    const result = await publish(bus, { subject, payload, msgId: `outbox-${id}`, traceId: traceId ?? undefined });
    if (result.kind === "unavailable") break;
    published.push(id);
  }
  return published;
}
