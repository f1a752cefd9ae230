import { tooMany } from "../errors.ts";

/**
 * Limits how many things run at the same time. An excess one is refused, not queued: each may take
 * hours.
 */
export class Gate {
  private readonly limit: number;
  private readonly what: string;
  private inside = 0;

  constructor(limit: number, what: string) {
    this.limit = limit;
    this.what = what;
  }

  /** Returns the function to call at the end. Throws 429. */
  enter(): () => void {
    if (this.inside >= this.limit)
      throw tooMany(`${this.limit} ${this.what} already; try again when some have ended`);
    this.inside += 1;
    let isOut = false;
    return () => {
      if (!isOut) this.inside -= 1;
      isOut = true;
    };
  }
}
