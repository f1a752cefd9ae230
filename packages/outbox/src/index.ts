/**
 * From the outbox to the bus, after the commit. The committer publishes its own rows at once; the relay takes what was left: by an outage, or by a committer that died.
 *
 * OB1  A row is marked as published only when the broker has stored its message. A crash in between publishes again under the same id, which the stream stores once.
 * OB2  Each stream is published to by itself: one that is missing holds up no message of another. A committer waits for it once, and leaves what comes then to the relay.
 */
import { type Bus, publish } from "@torpor/bus";
import { streamOf } from "@torpor/contracts";
import {
  type Database,
  findOutbox,
  markOutcome,
  type OutboxOutcome,
  type OutboxRow,
  relayOutbox,
} from "@torpor/db";

const RELAY_BATCH = 200;
/** The committer publishes first; the relay takes what is older than this. */
const RELAY_AFTER_MS = 500;

/** Committers leave a stream alone for so long after it took nothing, or until the relay finds that it does again. */
const SILENT_FOR_MS = 5_000;
const silentUntilMs = new WeakMap<Bus, Map<string, number>>();

/** What is published of a stored payload; rejects when that can never be known here. */
type Reveal = (payload: unknown) => Promise<unknown>;
const asStored: Reveal = async (payload) => payload;

interface OutboxLog {
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

/** Publishes committed rows now. What fails, or is not even tried because the bus is away, is left to the relay. Never rejects. */
export async function publishCommitted(
  deps: { db: Database; bus: Bus | undefined; log: OutboxLog; reveal?: Reveal },
  outboxIds: number[],
): Promise<void> {
  const { db, bus, log, reveal = asStored } = deps;
  if (bus === undefined || !bus.isConnected()) return;
  try {
    const silent = silentUntilMs.get(bus);
    const isHeard = (row: OutboxRow) =>
      !((silent?.get(streamNameOf(row)) ?? 0) > performance.now());
    const rows = (await findOutbox(db, outboxIds)).filter(isHeard);
    await markOutcome(db, await publishRows({ bus, log, reveal }, rows));
  } catch (err) {
    log.warn({ err }, "committed messages could not be published at once; the relay will");
  }
}

/** One round of the relay: what is unpublished and not fresh. Any number of relays may run. */
export async function relayCommitted({
  db,
  bus,
  log,
  reveal = asStored,
}: {
  db: Database;
  bus: Bus;
  log: OutboxLog;
  reveal?: Reveal;
}): Promise<{ taken: number; published: number }> {
  const which = { limit: RELAY_BATCH, olderThanMs: RELAY_AFTER_MS };
  return await relayOutbox(db, which, (rows) => publishRows({ bus, log, reveal }, rows));
}

const streamNameOf = ({ subject }: OutboxRow) => streamOf(subject) ?? "";

interface Publishing {
  bus: Bus;
  log: OutboxLog;
  reveal: Reveal;
}

async function publishRows(publishing: Publishing, rows: OutboxRow[]): Promise<OutboxOutcome> {
  const outcome: OutboxOutcome = { published: [], refused: [] };
  const streams = Map.groupBy(rows, streamNameOf);
  const toEach = [...streams].map(async ([stream, ofStream]) => {
    const isSilent = await publishInOrder(publishing, ofStream, outcome);
    noteSilence(publishing.bus, stream, isSilent);
  });
  await Promise.all(toEach);
  return outcome;
}

function noteSilence(bus: Bus, stream: string, isSilent: boolean): void {
  const silent = silentUntilMs.get(bus) ?? new Map<string, number>();
  silentUntilMs.set(bus, silent);
  if (isSilent) silent.set(stream, performance.now() + SILENT_FOR_MS);
  else silent.delete(stream);
}

/**
 * To one stream. Stops at the first that the broker could not store, and says so: the rest would fare
 * the same. One that it will never store is set aside, so that it holds up no other.
 */
async function publishInOrder(
  { bus, log, reveal }: Publishing,
  rows: OutboxRow[],
  outcome: OutboxOutcome,
): Promise<boolean> {
  for (const { id, subject, payload: stored, traceId } of rows) {
    const revealed = await reveal(stored).then(
      (payload) => ({ kind: "revealed" as const, payload }),
      (cause: unknown) => ({ kind: "refused" as const, reason: String(cause) }),
    );
    const result =
      revealed.kind === "refused"
        ? revealed
        : await publish(bus, {
            subject,
            payload: revealed.payload,
            msgId: `outbox-${id}`,
            traceId: traceId ?? undefined,
          });
    if (result.kind === "unavailable") return true;
    if (result.kind === "refused") {
      const { reason } = result;
      log.error({ outboxId: id, subject, reason }, "a message can never be sent; it is set aside");
      outcome.refused.push({ id, reason });
    } else outcome.published.push(id);
  }
  return false;
}
