/**
 * A limit on waiting. Node's timers run on the monotonic clock, which stands still while the
 * virtual machine is paused: paused time counts for nothing.
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

/** Resolves when the signal is aborted; `unwatch` forgets about it. */
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
