/**
 * Runs one body at a time per sandbox, in the order of the calls, until the queue is closed.
 *
 * TU1  After the close no body begins: waiting calls resolve with CLOSING, and bodies that have
 *      begun are awaited.
 */
import type { SandboxId } from "@torpor/contracts";
import type { Logger } from "@torpor/service";

/** Result of a call whose body did not begin, because this process ends. */
export const CLOSING = "closing";

export class KeyedQueue {
  private readonly log: Logger;
  /** End of the last turn of each sandbox that has one. */
  private readonly ends = new Map<SandboxId, Promise<void>>();
  private readonly waiting = new Set<() => void>();
  private readonly closing = new AbortController();
  /** Aborts when the queue is closed. */
  readonly signal = this.closing.signal;

  constructor(log: Logger) {
    this.log = log;
  }

  /**
   * Runs `body` in the sandbox's turn, and rejects as `body` does. The rejection is logged, so the
   * caller may ignore this promise. A promise that is derived from it (by an async function) must
   * be handled, or it ends the process.
   */
  run<T>(sandboxId: SandboxId, body: () => Promise<T>): Promise<T | typeof CLOSING> {
    const before = this.ends.get(sandboxId) ?? Promise.resolve();
    const turn = this.runNext(before, body);
    const logged = turn.catch((error: unknown) =>
      this.log.error({ err: error, sandboxId }, "step of a sandbox failed"),
    );
    const end = Promise.all([before, logged]).then(() => {
      if (this.ends.get(sandboxId) === end) this.ends.delete(sandboxId);
    });
    this.ends.set(sandboxId, end);
    return turn;
  }

  /** Resolves when no body runs any more. */
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
