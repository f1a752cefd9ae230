import { sleep } from "@torpor/service";

/**
 * Waits until this many more bytes may be sent, or may have been. Throws when the signal aborts.
 */
export type Pace = (bytes: number) => Promise<void>;

/** Limits bytes to the current value of `bytesPerSecond`; undefined: no limit. */
export function pacer(bytesPerSecond: () => number | undefined, signal: AbortSignal): Pace {
  let freeAtMs = 0;
  return async (bytes) => {
    const rate = bytesPerSecond();
    if (rate === undefined) return;
    const nowMs = performance.now();
    const startMs = Math.max(nowMs, freeAtMs);
    freeAtMs = startMs + (bytes / rate) * 1000;
    await sleep(startMs - nowMs, signal);
    signal.throwIfAborted();
  };
}
