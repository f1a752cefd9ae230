/** Counters of the agent's own work, for /metrics. */
import { round } from "./proc.ts";

/** Newest durations, from which the average and the percentile are computed. */
const KEPT_DURATIONS = 512;

export class SystemCounters {
  requests = 0;
  errors = 0;
  private readonly byEndpoint = new Map<string, number>();
  private readonly durationsMs: number[] = [];

  /** `endpoint` is the pattern of a route, so the number of names is bounded. */
  add(endpoint: string, durationMs: number, isError: boolean): void {
    this.requests += 1;
    if (isError) this.errors += 1;
    this.byEndpoint.set(endpoint, (this.byEndpoint.get(endpoint) ?? 0) + 1);
    this.durationsMs.push(durationMs);
    if (this.durationsMs.length > KEPT_DURATIONS) this.durationsMs.shift();
  }

  endpoints(): Record<string, number> {
    return Object.fromEntries(this.byEndpoint);
  }

  durations(): { avg: number; p95: number } {
    const sorted = [...this.durationsMs].sort((a, b) => a - b);
    const sum = sorted.reduce((total, duration) => total + duration, 0);
    return {
      avg: sorted.length === 0 ? 0 : round(sum / sorted.length),
      p95: round(sorted[Math.ceil(sorted.length * 0.95) - 1] ?? 0),
    };
  }
}
