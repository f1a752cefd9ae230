/**
 * One thing at a time per sandbox, in the order of asking, until it is closed.
 *
 * TU1  Once closed, nothing begins any more: what waited for its turn is told so, and what has
 *      begun is waited for.
 */
import type { Logger } from "@torpor/service";

/** In the place of a turn's result: this process ends, and it was not begun. */
export const CLOSING = "closing";

export class KeyedQueue {
  private readonly log: Logger;
  /** Per sandbox that has any: the end of all its turns. */
  private readonly ends = new Map<string, Promise<void>>();
  private readonly waiting = new Set<() => void>();
  private readonly closing = new AbortController();
  /** Ends when it is closed. */
  readonly signal = this.closing.signal;

  constructor(log: Logger) {
    this.log = log;
  }

  /**
   * Rejects as `body` does. That is logged, so the promise itself may be left alone; one that is
   * made of it (by an async function) may not: it would end the process.
   */
  run<T>(sandboxId: string, body: () => Promise<T>): Promise<T | typeof CLOSING> {
    const before = this.ends.get(sandboxId) ?? Promise.resolve();
    const turn = this.runNext(before, body);
    const logged = turn.catch((error: unknown) =>
      this.log.error({ err: error, sandboxId }, "a step of the supervisor failed"),
    );
    const end = Promise.all([before, logged]).then(() => {
      if (this.ends.get(sandboxId) === end) this.ends.delete(sandboxId);
    });
    this.ends.set(sandboxId, end);
    return turn;
  }

  /** Resolves when nothing goes on any more. */
  async close(): Promise<void> {
    this.closing.abort();
    for (const giveUp of this.waiting) giveUp();
    await Promise.all(this.ends.values());
  }

  private async runNext<T>(
    before: Promise<void>,
    body: () => Promise<T>,
  ): Promise<T | typeof CLOSING> {
    if (this.signal.aborted) return CLOSING;
    const turn = Promise.withResolvers<void>();
    this.waiting.add(turn.resolve);
    void before.then(turn.resolve);
    await turn.promise;
    this.waiting.delete(turn.resolve);
    return this.signal.aborted ? CLOSING : await body();
  }
}
