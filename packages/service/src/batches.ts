/**
 * Batches that form by themselves: what comes while one is under way is the next one. So what comes
 * alone waits for nothing but its turn of the event loop, and what comes in a crowd shares a round
 * trip and a commit.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";

/** A batch is nobody's: it does not go on as whoever happened to begin it. */
const asNobody = AsyncLocalStorage.snapshot();

interface BatchesOptions<Item, Result> {
  /**
   * Results in the order of the items. What it rejects with, each item of the batch is rejected
   * with.
   */
  run(items: Item[]): Promise<Result[]>;
  /**
   * What fails together is tried again one by one, at the same time: whose fault it is shows then.
   */
  triesAlone?: boolean;
  /** Of one batch; 64. */
  maxItems?: number;
  /** Of those that wait; 10,000. What comes beyond it is rejected at once. */
  maxWaiting?: number;
  /** How long one may wait for its batch to begin; 20 s. What has waited longer is rejected. */
  maxWaitMs?: number;
  /** How long a batch that is not full waits for others at least; 0. */
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
 * How long the next batch waits for others, if anything waits already. In a crowd half as long as
 * the one before took: most of what a batch costs, it costs once. What comes alone waits for
 * nobody.
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

  /** What came of this item. */
  async add(item: Item): Promise<Result> {
    const { maxWaiting } = this.options;
    if (this.waiting.length >= maxWaiting)
      throw timedOut(`${maxWaiting} wait already: more comes than can be worked off`);
    return await new Promise((resolve, reject) => {
      this.waiting.push({ item, sinceMs: performance.now(), resolve, reject });
      this.running ??= asNobody(() => this.runAll());
    });
  }

  /** Resolves when nothing waits and nothing is under way. */
  async idle(): Promise<void> {
    while (this.running !== undefined) await this.running;
  }

  private async runAll(): Promise<void> {
    const { maxItems } = this.options;
    let { gatherMs } = this.options;
    while (this.waiting.length > 0) {
      // What one turn of the event loop brings belongs together: messages of one packet, and the
      // answers of the batch before, are handled one after the other.
      await nextTurn();
      if (gatherMs > 0 && this.waiting.length < maxItems) await sleep(gatherMs);
      const batch = this.inTime(this.waiting.splice(0, maxItems));
      const startedAtMs = performance.now();
      await this.runOne(batch);
      const crowdMs = gatherAfter(batch.length, performance.now() - startedAtMs);
      gatherMs = Math.max(this.options.gatherMs, crowdMs);
    }
    // Not in a later turn: what is added until then would wait for nobody.
    this.running = undefined;
  }

  /** Whoever waits for the others has given up. */
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

/** As what it waits for says when it does not answer. */
const timedOut = (message: string) => Object.assign(new Error(message), { code: "ETIMEDOUT" });
