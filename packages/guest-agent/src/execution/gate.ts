import { tooMany } from "../errors.ts";

/** How many things may go on at once. One too many is refused, not queued: each may take hours. */
export class Gate {
  private readonly limit: number;
  private readonly what: string;
  private inside = 0;

  constructor(limit: number, what: string) {
    this.limit = limit;
    this.what = what;
  }

  /** Returns what must be called at the end. Throws 429. */
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
