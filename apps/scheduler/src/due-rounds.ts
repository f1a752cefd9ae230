/**
 * Leaves out rounds that have nothing to do: one read of the database returns, for all rounds,
 * which kinds of work exist.
 */
import { type Database, readDueWork, type Work } from "@torpor/db";

/** Rounds that begin within this time of a read use it: work is found at most this much later. */
const READ_HOLDS_MS = 200;
/**
 * A round runs at least this often, whatever the read returns, and when the scheduler has started:
 * the round's own list decides, and a list that fails is noticed before there is work.
 */
const ANYWAY_EVERY_MS = 60_000;

type Run<Result> = () => Promise<Result>;

export class DueRounds {
  private readonly db: Database;
  private newest = { beganAtMs: Number.NEGATIVE_INFINITY, found: noWork };

  constructor(db: Database) {
    this.db = db;
  }

  /** The round, left out while there is no such work. A kicked round reads again. */
  only<Result>(work: Work, run: Run<Result>) {
    let anywayAtMs = Number.NEGATIVE_INFINITY;
    return async ({ isKicked }: { isKicked: boolean }): Promise<Result | Record<string, never>> => {
      const now = performance.now();
      if (now < anywayAtMs) return (await this.found(isKicked)).has(work) ? await run() : {};
      const result = await run();
      anywayAtMs = now + ANYWAY_EVERY_MS;
      return result;
    };
  }

  private async found(isAnew: boolean): Promise<ReadonlySet<Work>> {
    const now = performance.now();
    if (isAnew || now - this.newest.beganAtMs >= READ_HOLDS_MS)
      this.newest = { beganAtMs: now, found: readDueWork(this.db) };
    return await this.newest.found;
  }
}

const noWork: Promise<ReadonlySet<Work>> = Promise.resolve(new Set<Work>());
