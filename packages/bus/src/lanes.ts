/**
 * Work of many senders, where each sender waits only for its own work: a sender with much work
 * takes neither the others' turns nor more than its share of memory.
 */
export interface LaneLimits {
  /** Over all lanes. */
  atOnce: number;
  atOncePerLane: number;
  /** Per lane, without the running work. */
  waiting: number;
}

type Work = () => Promise<void>;

interface Lane {
  running: number;
  waiting: Work[];
}

export class Lanes {
  private readonly limits: LaneLimits;
  /** Lanes with work, in the order of their turns. */
  private readonly lanes = new Map<string, Lane>();
  private readonly running = new Set<Promise<void>>();

  constructor(limits: LaneLimits) {
    this.limits = limits;
  }

  /** Runs `work`, which never rejects, when its turn comes; false when the lane is full. */
  add(name: string, work: Work): boolean {
    const lane = this.lanes.get(name) ?? { running: 0, waiting: [] };
    if (lane.waiting.length >= this.limits.waiting) return false;
    lane.waiting.push(work);
    this.lanes.set(name, lane);
    this.goOn();
    return true;
  }

  /** Resolves when nothing runs or waits any more. */
  async ended(): Promise<void> {
    while (this.running.size > 0) await Promise.allSettled(this.running);
  }

  private goOn(): void {
    for (const [name, lane] of this.lanes) {
      if (this.running.size >= this.limits.atOnce) return;
      if (lane.running >= this.limits.atOncePerLane) continue;
      const work = lane.waiting.shift();
      if (work === undefined) continue;
      this.begin(name, lane, work);
    }
  }

  private begin(name: string, lane: Lane, work: Work): void {
    lane.running += 1;
    this.toTheEnd(name, lane);
    const task = work().finally(() => {
      this.running.delete(task);
      lane.running -= 1;
      this.toTheEnd(name, lane);
      this.goOn();
    });
    this.running.add(task);
  }

  /** A turn is one piece of work; the other lanes are next. */
  private toTheEnd(name: string, lane: Lane): void {
    this.lanes.delete(name);
    if (lane.running > 0 || lane.waiting.length > 0) this.lanes.set(name, lane);
  }
}
