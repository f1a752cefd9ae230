/**
 * Ends things of the machine until all are gone, including things that are busy at first or appear
 * later.
 */
import { setTimeout as sleep } from "node:timers/promises";

const LOOK_EVERY_MS = 20;
const LIMIT_MS = 20_000;

export interface Thing {
  /** Unique, and understandable for a reader. */
  name: string;
  /** Called repeatedly until the thing is gone. */
  end: (elapsedMs: number) => Promise<void> | void;
}

/**
 * Returns the number of things. Throws the names of those that remain after `limitMs`, with the
 * cause.
 */
export async function endAll(list: () => Thing[], limitMs = LIMIT_MS): Promise<number> {
  const startedAt = performance.now();
  const names = new Set<string>();
  let cause: unknown;
  for (let left = list(); left.length > 0; left = list()) {
    const elapsedMs = performance.now() - startedAt;
    // Every thing gets one attempt, even if the list took long.
    const isLate = names.size > 0 && elapsedMs > limitMs;
    if (isLate) throw new Error(left.map(({ name }) => name).join(", "), { cause });
    for (const thing of left) {
      names.add(thing.name);
      try {
        await thing.end(elapsedMs);
      } catch (error) {
        cause = error;
      }
    }
    await sleep(LOOK_EVERY_MS);
  }
  return names.size;
}
