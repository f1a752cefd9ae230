/**
 * Rejects when `promise` has not settled within `limitMs`. What it waited for may still go on: only
 * for what can be done a second time.
 */
export async function withTimeLimit<T>(
  promise: Promise<T>,
  limitMs: number,
  what: string,
): Promise<T> {
  if (!(await endsWithin(promise, limitMs)))
    throw new Error(`${what} did not end within ${limitMs} ms`);
  return await promise;
}

/** False when `promise` has not settled within `limitMs`; what it waited for goes on. */
export async function endsWithin(promise: Promise<unknown>, limitMs: number): Promise<boolean> {
  const late = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => late.resolve(false), limitMs);
  const settled = promise.then(
    () => true,
    () => true,
  );
  try {
    return await Promise.race([settled, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
