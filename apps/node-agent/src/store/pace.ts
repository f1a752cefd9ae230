import { sleep } from "@torpor/service";

/** Waits until so many more bytes may go, or have gone. Throws when the signal ends. */
export type Pace = (bytes: number) => Promise<void>;

/**
 * Lets bytes through no faster than `bytesPerSecond` says at the time; undefined: as fast as they
 * go.
 */
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
