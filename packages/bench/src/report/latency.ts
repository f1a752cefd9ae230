export interface Latency {
  count: number;
  p50Ms: number;
  p90Ms: number;
  p99Ms: number;
  worstMs: number;
}

/** NaN for an empty list. */
export function latencyOf(tookMs: readonly number[]): Latency {
  const sorted = Float64Array.from(tookMs).toSorted();
  return {
    count: sorted.length,
    p50Ms: quantile(sorted, 0.5),
    p90Ms: quantile(sorted, 0.9),
    p99Ms: quantile(sorted, 0.99),
    worstMs: quantile(sorted, 1),
  };
}

/** The smallest value that at least `share` of all values do not exceed. */
function quantile(sorted: Float64Array, share: number): number {
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}
