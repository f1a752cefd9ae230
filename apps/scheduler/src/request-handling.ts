/**
 * Whether this scheduler can answer hosts, which takes the bus and the database. Noted for all
 * (packages/db/src/queries/lease-service.ts) while it can. Without the database it leaves the
 * questions to schedulers that have it: each question goes to one of them, and one that cannot
 * answer would keep it from the others.
 */
import type { Bus } from "@torpor/bus";
import { type Database, noteAnswering } from "@torpor/db";
import { withTimeLimit } from "@torpor/service";

/** A quarter of a lease without a note is a gap. */
const NOTES_PER_LEASE = 16;
const BUS_LIMITS_PER_LEASE = 8;
const NOTE_LIMITS_PER_LEASE = 4;

type Stop = () => Promise<void>;

/** The questions that this scheduler answers: all or none. */
export class RequestHandling {
  private readonly start: () => Stop[];
  private stops: Stop[];
  /** Resolves when what was asked before is answered. */
  private left: Promise<unknown> = Promise.resolve();
  private hasEnded = false;

  /** `start` begins to answer, and returns how that is stopped. */
  constructor(start: () => Stop[]) {
    this.start = start;
    this.stops = start();
  }

  join(): void {
    if (!this.hasEnded && this.stops.length === 0) this.stops = this.start();
  }

  /** The next question is another's. */
  leave(): void {
    this.left = Promise.all([this.left, ...this.stops.splice(0).map((stop) => stop())]);
  }

  async end(): Promise<void> {
    this.hasEnded = true;
    this.leave();
    await this.left;
  }
}

/**
 * The loop that does it. The bus is asked first: what it said may be older than the note, but not
 * newer.
 */
export function noteHandling(
  answers: RequestHandling,
  {
    db,
    bus,
    leaseMs,
    placesAtHome,
  }: { db: Database; bus: Bus; leaseMs: number; placesAtHome: boolean },
) {
  const everyMs = leaseMs / NOTES_PER_LEASE;
  const run = async () => {
    if (!(await bus.answers(leaseMs / BUS_LIMITS_PER_LEASE)))
      throw new Error("the bus does not answer");
    try {
      await withTimeLimit(
        noteAnswering(db, leaseMs, placesAtHome),
        leaseMs / NOTE_LIMITS_PER_LEASE,
        "the note",
      );
    } catch (error) {
      answers.leave();
      throw error;
    }
    answers.join();
    return {};
  };
  return { name: "note-answering", everyMs, run };
}
