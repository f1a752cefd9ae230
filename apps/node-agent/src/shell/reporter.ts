/** Publishes observations in order, again and again until the broker has stored them. What does not fit in the queue is repeated by the heartbeat's inventory. */
import { type Bus, publish } from "@torpor/bus";
import { type Observation, subjects } from "@torpor/contracts";
import { backoffMs, type Logger, pause } from "@torpor/service";

const MAX_QUEUED = 1_000;

export class Reporter {
  private readonly queue: Observation[] = [];
  private wake: (() => void) | undefined;
  private readonly log: Logger;

  constructor(log: Logger) {
    this.log = log;
  }

  report(seen: Observation): void {
    if (this.queue.length >= MAX_QUEUED) this.queue.shift();
    this.queue.push(seen);
    this.wake?.();
  }

  /** Runs until the signal ends. */
  async run(bus: Bus, signal: AbortSignal): Promise<void> {
    signal.addEventListener("abort", () => this.wake?.(), { once: true });
    let attempt = 0;
    while (!signal.aborted) {
      const next = this.queue[0];
      if (next === undefined) {
        await new Promise<void>((resolve) => (this.wake = resolve));
        continue;
      }
      const msgId = `${next.sandboxId}.${next.epoch}.${next.opSeq}.${next.revision}`;
      const published = await publish(bus, { subject: subjects.observation(next.hostId, next.state), payload: next, msgId });
      if (published.kind !== "unavailable") {
        attempt = 0;
        if (this.queue[0] === next) this.queue.shift();
        continue;
      }
      attempt += 1;
      if (attempt === 1) this.log.warn({ err: published.cause }, "observations cannot be published; trying again");
      await pause(backoffMs(attempt, { baseMs: 100, maxMs: 5_000 }), signal);
    }
  }
}
