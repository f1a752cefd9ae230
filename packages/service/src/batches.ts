/**
 * Batches that form by themselves: the items that arrive while a batch runs are the next batch. So
 * a single item waits only for its turn of the event loop, and many items share a round trip and a
 * commit.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";

/** A batch must not run in the async context of the caller that happened to begin it. */
const asNobody = AsyncLocalStorage.snapshot();

interface BatchesOptions<Item, Result> {
  /**
   * Returns results in the order of the items. If it rejects, all items of the batch reject with
   * the same error.
   */
  run(items: Item[]): Promise<Result[]>;
  /**
   * Retries the items of a failed batch one by one, concurrently, so that only those at fault fail.
   */
  triesAlone?: boolean;
  /** Items in one batch; default 64. */
  maxItems?: number;
  /** Items that wait; default 10,000. Further items are rejected at once. */
  maxWaiting?: number;
  /** How long an item may wait for its batch; default 20 s. After that the item is rejected. */
  maxWaitMs?: number;
  /** How long a batch that is not full waits at least for more items; default 0. */
  gatherMs?: number;
}

interface Waiting<Item, Result> {
  item: Item;
  sinceMs: number;
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

const MAX_CROWD_MS = 10;

/**
 * How long the next batch gathers, if items wait already. After several items: half the duration of
 * their batch, because most of a batch's cost does not depend on its size. After one item: 0.
 */
export function gatherAfter(items: number, tookMs: number): number {
  return items > 1 ? Math.min(tookMs / 2, MAX_CROWD_MS) : 0;
}

export class Batches<Item, Result> {
  private readonly options: Required<BatchesOptions<Item, Result>>;
  private readonly waiting: Waiting<Item, Result>[] = [];
  private running: Promise<void> | undefined;

  constructor(options: BatchesOptions<Item, Result>) {
    this.options = {
      maxItems: 64,
      maxWaiting: 10_000,
      maxWaitMs: 20_000,
      gatherMs: 0,
      triesAlone: false,
      ...options,
    };
  }

  /** Result of the item. */
  async add(item: Item): Promise<Result> {
    const { maxWaiting } = this.options;
    if (this.waiting.length >= maxWaiting)
      throw timedOut(`${maxWaiting} wait already: more comes than can be worked off`);
    return await new Promise((resolve, reject) => {
      this.waiting.push({ item, sinceMs: performance.now(), resolve, reject });
      this.running ??= asNobody(() => this.runAll());
    });
  }

  /** Resolves when no item waits and no batch runs. */
  async idle(): Promise<void> {
    while (this.running !== undefined) await this.running;
  }

  private async runAll(): Promise<void> {
    const { maxItems } = this.options;
    let { gatherMs } = this.options;
    while (this.waiting.length > 0) {
      // Items of one turn of the event loop belong together: the messages of one packet, and the
      // continuations of the previous batch, are handled one after another.
      await nextTurn();
      if (gatherMs > 0 && this.waiting.length < maxItems) await sleep(gatherMs);
      const batch = this.inTime(this.waiting.splice(0, maxItems));
      const startedAtMs = performance.now();
      await this.runOne(batch);
      const crowdMs = gatherAfter(batch.length, performance.now() - startedAtMs);
      gatherMs = Math.max(this.options.gatherMs, crowdMs);
    }
    // In the same turn: otherwise an item that is added in between would never run.
    this.running = undefined;
  }

  /** Drops items that have waited too long, because their callers have given up. */
  private inTime(batch: Waiting<Item, Result>[]): Waiting<Item, Result>[] {
    const { maxWaitMs } = this.options;
    const oldestMs = performance.now() - maxWaitMs;
    const isLate = ({ sinceMs }: Waiting<Item, Result>) => sinceMs < oldestMs;
    for (const { reject } of batch.filter(isLate)) reject(waitedTooLong(maxWaitMs));
    return batch.filter((one) => !isLate(one));
  }

  private async runOne(batch: Waiting<Item, Result>[]): Promise<void> {
    if (batch.length === 0) return;
    try {
      const results = await this.options.run(batch.map(({ item }) => item));
      for (const [index, { resolve, reject }] of batch.entries()) {
        if (index < results.length) resolve(results[index] as Result);
        else reject(new Error(`a batch of ${batch.length} has ${results.length} results`));
      }
    } catch (error) {
      if (this.options.triesAlone && batch.length > 1)
        await Promise.all(batch.map((one) => this.runOne([one])));
      else for (const { reject } of batch) reject(error);
    }
  }
}

const waitedTooLong = (ms: number) => timedOut(`it waited for more than ${ms / 1000} s`);

/** Same code as a timeout of what the batch calls. */
const timedOut = (message: string) => Object.assign(new Error(message), { code: "ETIMEDOUT" });
