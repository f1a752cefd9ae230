/** Rounds that have nothing to do are left out: one look at the database tells for all of them. */
import { type Database, readDueWork, type Work } from "@torpor/db";

/** Rounds that begin within so long of a look go by it: at most that much later is work seen. */
const LOOK_HOLDS_MS = 200;

type Run<Result> = () => Promise<Result>;

export class DueRounds {
  private readonly db: Database;
  private look = { beganAtMs: Number.NEGATIVE_INFINITY, found: noWork };

  constructor(db: Database) {
    this.db = db;
  }

  /** The round, without its work while there is none. One that is asked for looks anew. */
  only<Result>(work: Work, run: Run<Result>) {
    return async ({ isKicked }: { isKicked: boolean }): Promise<Result | Record<string, never>> => {
      const found = await this.found(isKicked);
      return found.has(work) ? await run() : {};
    };
  }

  private async found(isAnew: boolean): Promise<ReadonlySet<Work>> {
    const now = performance.now();
    if (isAnew || now - this.look.beganAtMs >= LOOK_HOLDS_MS)
      this.look = { beganAtMs: now, found: readDueWork(this.db) };
    return await this.look.found;
  }
}

const noWork: Promise<ReadonlySet<Work>> = Promise.resolve(new Set<Work>());
