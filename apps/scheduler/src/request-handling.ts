/**
 * Tracks whether this scheduler can reply to hosts, which takes the bus and the database. As long
 * as that is true, a note for all schedulers records it
 * (packages/db/src/queries/hosts/lease-service.ts). Without the database, this scheduler leaves the
 * requests to others: each request goes to one scheduler, and one that cannot reply would keep the
 * request from the others.
 */
import type { Bus } from "@torpor/bus";
import { type Database, noteAnswering } from "@torpor/db";
import { withTimeLimit } from "@torpor/service";

/** A gap is a quarter of a lease without a note. */
const NOTES_PER_LEASE = 16;
const BUS_LIMITS_PER_LEASE = 8;
const NOTE_LIMITS_PER_LEASE = 4;

type Stop = () => Promise<void>;

/** The requests that this scheduler handles: all or none. */
export class RequestHandling {
  private readonly start: () => Stop[];
  private stops: Stop[];
  /** Resolves when earlier requests have their replies. */
  private left: Promise<unknown> = Promise.resolve();
  private hasEnded = false;

  /** `start` begins to handle requests, and returns functions that stop it. */
  constructor(start: () => Stop[]) {
    this.start = start;
    this.stops = start();
  }

  join(): void {
    if (!this.hasEnded && this.stops.length === 0) this.stops = this.start();
  }

  /** Leaves the next request to another scheduler. */
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
 * The loop that writes the note. The bus is probed first: the probe may be older than the note, but
 * not newer.
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
