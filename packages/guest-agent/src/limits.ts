/**
 * Waits for a promise for a limited time. Node's timers use the monotonic clock, which stops while
 * the virtual machine is paused: paused time does not count.
 */
export async function withLimit<T>(promise: Promise<T>, limitMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), limitMs);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves when the signal is aborted; `unwatch` removes the listener. */
export function whenAborted(signal: AbortSignal): {
  promise: Promise<"aborted">;
  unwatch: () => void;
} {
  let unwatch = () => {};
  const promise = new Promise<"aborted">((resolve) => {
    const onAbort = () => resolve("aborted");
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    unwatch = () => signal.removeEventListener("abort", onAbort);
  });
  return { promise, unwatch };
}
