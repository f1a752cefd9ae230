/**
 * From the outbox to the bus, after the commit. The committer publishes its own rows at once. The
 * relay publishes the rows that are left after an outage, or after the death of a committer.
 *
 * OB1  A row is marked as published only when the broker has stored its message. A crash in between
 *      publishes again under the same id, which the stream stores once.
 * OB2  Publishing to one stream is independent of the others: a missing stream holds up no message
 *      of another stream. A committer waits for the missing stream once, and leaves later messages
 *      to the relay.
 * OB3  The relay also takes the rows of each stream separately: rows that wait for a missing stream
 *      hold up no other rows, however many wait (decision 39).
 */
import { type Bus, publish } from "@torpor/bus";
import { streamOf } from "@torpor/contracts";
import {
  type Database,
  listWaitingKinds,
  markOutcomes,
  type OutboxOutcome,
  type OutboxRow,
  relayOutbox,
} from "@torpor/db";
import { Batches } from "@torpor/service";

const RELAY_BATCH = 200;
/**
 * Batches of a stream in a round: a stream that stores them continues while another is waited for.
 */
const MAX_RELAY_BATCHES = 25;
/** Time after which a round begins no further batch: well below what a reconciler may take. */
const MAX_RELAY_MS = 5_000;
/** The committer publishes first: the relay takes only rows that are older than this. */
const RELAY_AFTER_MS = 500;
/**
 * Time for which the first mark waits for others. Nothing waits for marks. Well below what the
 * relay waits.
 */
const GATHER_MARKS_MS = 25;

/**
 * Time for which committers skip a stream that stored nothing, unless the relay finds earlier that
 * the stream stores again.
 */
const SILENT_FOR_MS = 5_000;
const silentUntilMs = new WeakMap<Bus, Map<string, number>>();

/** Payload to publish for a stored payload; rejects when it can never be known here. */
type Reveal = (payload: unknown) => Promise<unknown>;
const asStored: Reveal = async (payload) => payload;

interface OutboxLog {
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

interface Deps {
  db: Database;
  bus: Bus;
  log: OutboxLog;
  reveal?: Reveal;
}

/** Publishes what its program has committed. */
export class Publisher {
  private readonly deps: Deps;
  private readonly marks: Batches<OutboxOutcome, undefined>;

  constructor(deps: Deps) {
    this.deps = deps;
    this.marks = new Batches({
      run: async (outcomes) => {
        await markOutcomes(deps.db, outcomes);
        return outcomes.map(() => undefined);
      },
      gatherMs: GATHER_MARKS_MS,
    });
  }

  /**
   * Publishes committed rows now, and marks them a little later. Rows that fail, or are not even
   * tried because the bus is away, are left to the relay. Never rejects.
   */
  async publish(rows: OutboxRow[]): Promise<void> {
    const { bus } = this.deps;
    const heard = bus.isConnected() ? rows.filter((row) => !isSilent(bus, row)) : [];
    if (heard.length === 0) return;
    try {
      const outcome = await publishRows(this.deps, heard);
      // Without a mark, the relay publishes the message again: the stream has it, and stores it
      // once.
      void this.marks.add(outcome).catch((err: unknown) => this.warn(err));
    } catch (err) {
      this.warn(err);
    }
  }

  /** Resolves when all published rows are marked. */
  async idle(): Promise<void> {
    await this.marks.idle();
  }

  private warn(err: unknown): void {
    this.deps.log.warn(
      { err },
      "committed messages could not be published or marked at once; left to the relay",
    );
  }
}

type Relayed = Record<"taken" | "published", number>;

/** Runs one round of the relay, for unpublished rows that are not fresh. Any number may run. */
export async function relayCommitted(deps: Deps): Promise<Relayed> {
  const kinds = await listWaitingKinds(deps.db, RELAY_AFTER_MS);
  return sumOf(await Promise.all(kinds.map((kind) => relayKind(deps, kind))));
}

/** Publishes until no row is left, or the stream stores no more. */
async function relayKind(deps: Deps, kind: string): Promise<Relayed> {
  const which = { kind, limit: RELAY_BATCH, olderThanMs: RELAY_AFTER_MS };
  const batches: Relayed[] = [];
  const endsAtMs = performance.now() + MAX_RELAY_MS;
  while (batches.length < MAX_RELAY_BATCHES && performance.now() < endsAtMs) {
    const batch = await relayOutbox(deps.db, which, (rows) => publishRows(deps, rows));
    batches.push(batch);
    if (batch.taken < RELAY_BATCH || batch.published === 0) break;
  }
  return sumOf(batches);
}

const sumOf = (all: Relayed[]): Relayed => ({
  taken: all.reduce((sum, { taken }) => sum + taken, 0),
  published: all.reduce((sum, { published }) => sum + published, 0),
});

const streamNameOf = ({ subject }: OutboxRow) => streamOf(subject) ?? "";

function isSilent(bus: Bus, row: OutboxRow): boolean {
  return (silentUntilMs.get(bus)?.get(streamNameOf(row)) ?? 0) > performance.now();
}

function noteSilence(bus: Bus, row: OutboxRow, hasTaken: boolean): void {
  const silent = silentUntilMs.get(bus) ?? new Map<string, number>();
  silentUntilMs.set(bus, silent);
  if (hasTaken) silent.delete(streamNameOf(row));
  else silent.set(streamNameOf(row), performance.now() + SILENT_FOR_MS);
}

/**
 * All at once: their order means nothing, because readers go by the numbers in the messages. A
 * message that no server will ever store is in `refused`; a message that could not be stored now is
 * in neither list.
 */
async function publishRows(deps: Deps, rows: OutboxRow[]): Promise<OutboxOutcome> {
  const outcome: OutboxOutcome = { published: [], refused: [] };
  await Promise.all(rows.map((row) => publishRow(deps, row, outcome)));
  return outcome;
}

async function publishRow(
  { bus, log, reveal = asStored }: Deps,
  row: OutboxRow,
  outcome: OutboxOutcome,
): Promise<void> {
  const { id, subject, payload: stored, traceId } = row;
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
  noteSilence(bus, row, result.kind !== "unavailable");
  if (result.kind === "unavailable") return;
  if (result.kind === "refused") {
    const { reason } = result;
    log.error({ outboxId: id, subject, reason }, "message set aside: it can never be sent");
    outcome.refused.push({ id, reason });
  } else outcome.published.push(id);
}
