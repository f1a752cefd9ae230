import { setTimeout as timer } from "node:timers/promises";

/** Exponential, with jitter: between half and all of `baseMs · 2^attempt`, at most `maxMs`. */
export function backoffMs(attempt: number, options: { baseMs: number; maxMs: number }): number {
  const ceiling = Math.min(options.maxMs, options.baseMs * 2 ** Math.min(attempt, 30));
  return Math.round(ceiling * (0.5 + Math.random() / 2));
}

/** Sleeps; false when the signal ended the sleep early. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<boolean> {
  try {
    await timer(ms, undefined, signal === undefined ? {} : { signal });
    return true;
  } catch {
    return false;
  }
}
