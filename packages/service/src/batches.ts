/**
 * Batches that form by themselves: what comes while one is under way is the next one. So what comes
 * alone waits for nothing, and what comes in a crowd shares a round trip and a commit.
 */
import { setTimeout as sleep } from "node:timers/promises";

interface BatchesOptions<Item, Result> {
  /** Results in the order of the items. What it rejects with, each item of the batch is rejected with. */
  run(items: Item[]): Promise<Result[]>;
  /** What fails together is tried again one by one, at the same time: whose fault it is shows then. */
  triesAlone?: boolean;
  /** Of one batch; 64. */
  maxItems?: number;
  /** Of those that wait; 10,000. What comes beyond it is rejected at once. */
  maxWaiting?: number;
  /** How long a batch that is not full waits for others; 0. */
  gatherMs?: number;
}

interface Waiting<Item, Result> {
  item: Item;
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

export class Batches<Item, Result> {
  private readonly options: Required<BatchesOptions<Item, Result>>;
  private readonly waiting: Waiting<Item, Result>[] = [];
  private running: Promise<void> | undefined;

  constructor(options: BatchesOptions<Item, Result>) {
    this.options = { maxItems: 64, maxWaiting: 10_000, gatherMs: 0, triesAlone: false, ...options };
  }

  /** What came of this item. */
  async add(item: Item): Promise<Result> {
    const { maxWaiting } = this.options;
    if (this.waiting.length >= maxWaiting)
      throw new Error(`${maxWaiting} wait already: more comes than can be worked off`);
    return await new Promise((resolve, reject) => {
      this.waiting.push({ item, resolve, reject });
      this.running ??= this.runAll();
    });
  }

  /** Resolves when nothing waits and nothing is under way. */
  async idle(): Promise<void> {
    while (this.running !== undefined) await this.running;
  }

  private async runAll(): Promise<void> {
    const { gatherMs, maxItems } = this.options;
    // What is added in the same turn of the event loop belongs together.
    await Promise.resolve();
    while (this.waiting.length > 0) {
      if (gatherMs > 0 && this.waiting.length < maxItems) await sleep(gatherMs);
      await this.runOne(this.waiting.splice(0, this.options.maxItems));
    }
    // Not in a later turn: what is added until then would wait for nobody.
    this.running = undefined;
  }

  private async runOne(batch: Waiting<Item, Result>[]): Promise<void> {
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
