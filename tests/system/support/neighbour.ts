/** Somebody who uses a sandbox on an honest host, and what they notice of an attack. */
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";

export interface NeighbourData {
  url: string;
  apiKey: string;
  /** Of their sandbox, which runs. */
  id: string;
}

/** Of some requests in a row: the median of a GET, and the mean of a pause and a resume. */
export interface Window {
  getMs: number;
  transitionMs: number;
}

export type Asked = "all" | "reads";

export class Neighbour implements AsyncDisposable {
  private readonly worker: Worker;

  constructor(data: NeighbourData) {
    this.worker = new Worker(new URL("./neighbour-worker.ts", import.meta.url), {
      workerData: data,
    });
  }

  /** Rejects when a request of theirs is answered by anything but success. */
  async window(): Promise<Window> {
    return (await this.ask("all")) as Window;
  }

  /** The same without pause and resume, for a moment that nobody looks at. */
  async reads(): Promise<void> {
    await this.ask("reads");
  }

  private async ask(asked: Asked): Promise<unknown> {
    const answered = once(this.worker, "message");
    this.worker.postMessage(asked);
    const [{ seen, failure }] = (await answered) as [{ seen?: unknown; failure?: string }];
    if (failure !== undefined) throw new Error(failure);
    return seen;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.worker.terminate();
  }
}

/** Windows beside each other, so that whatever else the machine does is in both. */
export interface Pair {
  quiet: Window;
  attacked: Window;
  /** What the attacker took of all processors meanwhile, itself: elsewhere it has its own. */
  attackerShare: number;
}

const MOST_PAIRS = 24;
const TIMES = 2;

/** How often as long requests took, and how often as long they may. */
export interface Noticed {
  get: number;
  transition: number;
  atMost: number;
}

/** By medians: half of all pairs would have to say so. */
export function noticedIn(pairs: readonly Pair[]): Noticed {
  const share = median(pairs.map(({ attackerShare }) => attackerShare));
  return {
    get: median(pairs.map(({ quiet, attacked }) => attacked.getMs / quiet.getMs)),
    transition: median(
      pairs.map(({ quiet, attacked }) => attacked.transitionMs / quiet.transitionMs),
    ),
    atMost: TIMES / (1 - Math.min(0.5, Math.max(0, share))),
  };
}

const isUnnoticed = ({ get, transition, atMost }: Noticed) => Math.max(get, transition) <= atMost;

/**
 * Attacks and rests in turn, in so many pairs at least, and in more while these leave doubt: all of
 * them count.
 */
export async function watchDuring(
  neighbour: Neighbour,
  attack: (signal: AbortSignal) => Promise<void>,
  leastPairs: number,
): Promise<Pair[]> {
  const pairs: Pair[] = [];
  while (pairs.length < MOST_PAIRS) {
    const stop = new AbortController();
    const running = attack(stop.signal);
    // What goes wrong with it shows when it is waited for.
    running.catch(() => {});
    // The attack gathers way, and what it left is over, while nobody looks.
    await neighbour.reads();
    const attacked = await withShare(neighbour);
    stop.abort();
    await running;
    await neighbour.window();
    const quiet = await withShare(neighbour);
    const attackerShare = attacked.share - quiet.share;
    pairs.push({ quiet: quiet.window, attacked: attacked.window, attackerShare });
    if (pairs.length >= leastPairs && isUnnoticed(noticedIn(pairs))) return pairs;
  }
  return pairs;
}

/** With the share of the machine's processors that this process takes in it. */
async function withShare(neighbour: Neighbour): Promise<{ window: Window; share: number }> {
  const [before, startedAt] = [process.cpuUsage(), performance.now()];
  const window = await neighbour.window();
  const { user, system } = process.cpuUsage(before);
  const tookMs = performance.now() - startedAt;
  return { window, share: (user + system) / 1000 / tookMs / availableParallelism() };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
