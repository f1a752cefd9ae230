/**
 * Batches that form by themselves: while one is under way, what arrives gathers for the next. So
 * one caller alone hardly waits, and many share a statement and its commit.
 */
import { setTimeout as sleep } from "node:timers/promises";

interface BatchesOptions<Item, Result> {
  /** Returns the results in the order of the items. */
  run(items: Item[]): Promise<Result[]>;
  /** Of one batch. */
  maxItems: number;
  /** What arrives so long after the first item of a batch comes along; 0. */
  gatherMs?: number;
}

interface Waiting<Item, Result> {
  item: Item;
  settle: PromiseWithResolvers<Result>;
}

export class Batches<Item, Result> {
  private readonly options: BatchesOptions<Item, Result>;
  /** No more than there are callers, who wait for their results. */
  private readonly waiting: Waiting<Item, Result>[] = [];
  private isRunning = false;

  constructor(options: BatchesOptions<Item, Result>) {
    this.options = options;
  }

  /** Resolves with the item's own result. An item that fails makes no other one fail. */
  async add(item: Item): Promise<Result> {
    const settle = Promise.withResolvers<Result>();
    this.waiting.push({ item, settle });
    if (!this.isRunning) void this.runAll();
    return await settle.promise;
  }

  private async runAll(): Promise<void> {
    this.isRunning = true;
    const { gatherMs = 0, maxItems } = this.options;
    while (this.waiting.length > 0) {
      if (gatherMs > 0 && this.waiting.length < maxItems) await sleep(gatherMs);
      await this.runOne(this.waiting.splice(0, maxItems));
    }
    this.isRunning = false;
  }

  private async runOne(batch: Waiting<Item, Result>[]): Promise<void> {
    try {
      const results = await this.options.run(batch.map(({ item }) => item));
      if (results.length !== batch.length)
        throw new Error(`a batch of ${batch.length} has ${results.length} results`);
      for (const [at, { settle }] of batch.entries()) settle.resolve(results[at] as Result);
    } catch (error) {
      const [first] = batch;
      if (batch.length === 1) first?.settle.reject(error);
      // Whose fault it is shows when each is alone. At the same time: it may be nobody's.
      else await Promise.all(batch.map((one) => this.runOne([one])));
    }
  }
}
