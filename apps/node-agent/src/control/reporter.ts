/**
 * Publishes observations in order, each until the broker has stored it. The heartbeat's inventory
 * repeats what does not fit in the queue.
 */
import { type Bus, publish } from "@torpor/bus";
import { type Observation, subjects } from "@torpor/contracts";
import { backoffMs, type Logger, sleep } from "@torpor/service";
import type { Backlog } from "./work.ts";

const MAX_QUEUED = 1_000;

export class Reporter {
  private readonly queue: { seen: Observation; atMs: number }[] = [];
  private wake: (() => void) | undefined;
  private readonly log: Logger;

  constructor(log: Logger) {
    this.log = log;
  }

  report(seen: Observation): void {
    if (this.queue.length >= MAX_QUEUED) this.queue.shift();
    this.queue.push({ seen, atMs: Date.now() });
    this.wake?.();
  }

  backlog(): Backlog {
    return { count: this.queue.length, oldestAtMs: this.queue[0]?.atMs };
  }

  /** Runs until the signal aborts. */
  async run(bus: Bus, signal: AbortSignal): Promise<void> {
    signal.addEventListener("abort", () => this.wake?.(), { once: true });
    let attempt = 0;
    while (!signal.aborted) {
      const next = this.queue[0];
      if (next === undefined) {
        await new Promise<void>((resolve) => (this.wake = resolve));
        continue;
      }
      const { seen } = next;
      const msgId = `${seen.sandboxId}.${seen.epoch}.${seen.opSeq}.${seen.revision}`;
      const published = await publish(bus, {
        subject: subjects.observation(seen.hostId, seen.state),
        payload: seen,
        msgId,
      });
      if (published.kind !== "unavailable") {
        attempt = 0;
        if (this.queue[0] === next) this.queue.shift();
        continue;
      }
      attempt += 1;
      if (attempt === 1)
        this.log.warn({ err: published.cause }, "observations could not be published; retrying");
      await sleep(backoffMs(attempt, { baseMs: 100, maxMs: 5_000 }), signal);
    }
  }
}
