import { setTimeout as sleep } from "node:timers/promises";

const LOOK_EVERY_MS = 10;
/** Most acts under way at once. Further acts are left out: a slow target gets no backlog. */
const MOST_AT_ONCE = 200;

/** Begins `act` `perSecond` times a second until the signal. Rejects when an act rejects. */
export async function often(
  perSecond: number,
  signal: AbortSignal,
  act: (at: number) => Promise<unknown>,
): Promise<void> {
  const startedAt = performance.now();
  const under = new Set<Promise<void>>();
  const failed: unknown[] = [];
  for (let [at, begun] = [0, 0]; !signal.aborted && failed.length === 0;) {
    const due = ((performance.now() - startedAt) / 1_000) * perSecond;
    for (; at < due; at += 1) {
      if (under.size >= MOST_AT_ONCE) continue;
      const acting = act(begun)
        .catch((error: unknown) => void failed.push(error))
        .then(() => void under.delete(acting));
      under.add(acting);
      begun += 1;
    }
    await sleep(LOOK_EVERY_MS);
  }
  await Promise.all(under);
  if (failed.length > 0) throw failed[0];
}
