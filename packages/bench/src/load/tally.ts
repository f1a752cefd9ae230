/** Results of a step's requests while its window is open. */
import { type Latency, latencyOf } from "../report/latency.ts";

export class Tally {
  private isOpen = false;
  private readonly tookMs = new Map<string, number[]>();
  private failures = new Map<string, number>();
  /** Requests that succeeded, also outside the window. */
  done = 0;

  open(): void {
    this.isOpen = true;
  }

  close(): void {
    this.isOpen = false;
  }

  succeeded(kind: string, ms: number): void {
    this.done += 1;
    if (!this.isOpen) return;
    const all = this.tookMs.get(kind);
    if (all === undefined) this.tookMs.set(kind, [ms]);
    else all.push(ms);
  }

  /** Counts outside the window too: a failure of the warm-up is a failure. */
  failed(why: string): void {
    this.failures.set(why, (this.failures.get(why) ?? 0) + 1);
  }

  count(kind?: string): number {
    if (kind !== undefined) return this.tookMs.get(kind)?.length ?? 0;
    return [...this.tookMs.values()].reduce((sum, { length }) => sum + length, 0);
  }

  /** Latencies per kind, and of all kinds together if there are several. */
  latencies(): Record<string, Latency> {
    const byName = [...this.tookMs].toSorted(([one], [other]) => one.localeCompare(other));
    const kinds = byName.map(([kind, ms]): [string, Latency] => [kind, latencyOf(ms)]);
    if (kinds.length < 2) return Object.fromEntries(kinds);
    return Object.fromEntries([["all", latencyOf([...this.tookMs.values()].flat())], ...kinds]);
  }

  failedBy(): Record<string, number> {
    return Object.fromEntries(this.failures);
  }
}
