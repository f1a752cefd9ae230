/** Ends things of the machine until they are gone: also what is busy at first, or appears later. */
import { setTimeout as sleep } from "node:timers/promises";

const LOOK_EVERY_MS = 20;
const LIMIT_MS = 20_000;

export interface Thing {
  /** Tells it apart, and tells a reader what it is. */
  name: string;
  /** Called again and again until it is gone. */
  end: (elapsedMs: number) => Promise<void> | void;
}

/** Returns how many there were. Throws the names of those that stay for `limitMs`, and why. */
export async function endAll(list: () => Thing[], limitMs = LIMIT_MS): Promise<number> {
  const startedAt = performance.now();
  const names = new Set<string>();
  let cause: unknown;
  for (let left = list(); left.length > 0; left = list()) {
    const elapsedMs = performance.now() - startedAt;
    // One try is theirs, however long the list took.
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
