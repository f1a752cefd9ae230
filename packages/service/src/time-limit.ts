/**
 * Rejects when `promise` has not settled within `limitMs`. The work behind it may continue, so use
 * this only for work that can be done twice.
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

/** False when `promise` has not settled within `limitMs`; the work behind it continues. */
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
