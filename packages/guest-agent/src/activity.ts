/**
 * The sandbox's current activity, from which the host decides whether to pause it. All times are
 * monotonic: a pause or a step of the clock does not change them.
 */
export interface ActivitySnapshot {
  active_requests: number;
  active_executions: number;
  /** Terminals, watches and tunnels with traffic in the last minute. */
  open_streams: number;
  last_activity_ms_ago: number;
}

/** A stream without traffic for longer than this is open, but counts as unused. */
const RECENT_MS = 60_000;

export interface OpenStream {
  touch: () => void;
  end: () => void;
}

export class GuestActivity {
  private requests = 0;
  private executions = 0;
  private readonly streams = new Set<{ touchedAtMs: number }>();
  private lastAtMs = performance.now();

  get activeExecutions(): number {
    return this.executions;
  }

  get openStreams(): number {
    return this.streams.size;
  }

  /** Counts a request until the returned function is called. */
  request(): () => void {
    this.requests += 1;
    return this.ending(() => (this.requests -= 1));
  }

  execution(): () => void {
    this.executions += 1;
    return this.ending(() => (this.executions -= 1));
  }

  stream(): OpenStream {
    const stream = { touchedAtMs: performance.now() };
    this.streams.add(stream);
    this.touch();
    const touch = () => {
      stream.touchedAtMs = performance.now();
      this.touch();
    };
    return { touch, end: this.ending(() => this.streams.delete(stream)) };
  }

  snapshot(): ActivitySnapshot {
    const now = performance.now();
    return {
      active_requests: this.requests,
      active_executions: this.executions,
      open_streams: [...this.streams].filter((stream) => now - stream.touchedAtMs < RECENT_MS)
        .length,
      last_activity_ms_ago:
        this.requests + this.executions > 0 ? 0 : Math.round(now - this.lastAtMs),
    };
  }

  private touch(): void {
    this.lastAtMs = performance.now();
  }

  private ending(end: () => unknown): () => void {
    this.touch();
    let isEnded = false;
    return () => {
      if (isEnded) return;
      isEnded = true;
      end();
      this.touch();
    };
  }
}
