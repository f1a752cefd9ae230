import { type Bus, publish } from "@torpor/bus";
import { type Database, findOutbox, markPublished } from "@torpor/db";
import type { FastifyBaseLogger } from "fastify";

/** Publishes committed outbox rows at once. What fails, or is not even tried because the bus is away, is left to the scheduler's relay. Never rejects. */
export async function publishCommitted(
  deps: { db: Database; log: FastifyBaseLogger; bus: Bus | undefined },
  outboxIds: number[],
): Promise<void> {
  const { db, bus } = deps;
  if (bus === undefined || !bus.isConnected()) return;
  try {
    const published: number[] = [];
    for (const row of await findOutbox(db, outboxIds)) {
      const result = await publish(bus, {
        subject: row.subject,
        payload: row.payload,
        msgId: `outbox-${row.id}`,
        traceId: row.traceId ?? undefined,
      });
      if (result.kind === "unavailable") break;
      published.push(row.id);
    }
    await markPublished(db, published);
  } catch (err) {
    deps.log.warn({ err }, "committed messages could not be published at once; the scheduler's relay will");
  }
}
