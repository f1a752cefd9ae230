/** A user of a sandbox on an honest host, and what the user notices of an attack. */
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";

export interface NeighbourData {
  url: string;
  apiKey: string;
  /** Id of the neighbour's running sandbox. */
  id: string;
}

/** Times of a series of requests: the median of the GETs, and the mean of a pause and a resume. */
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

  /** Rejects when a request of the series fails. */
  async window(): Promise<Window> {
    return (await this.ask("all")) as Window;
  }

  /** Sends only the GETs of a window, which are not measured. */
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

/** Two windows next to each other, so that other work of the machine is in both. */
export interface Pair {
  quiet: Window;
  attacked: Window;
  /** Share of all processors that the attacker used in that time. A real attacker has its own. */
  attackerShare: number;
}

/** Of about five seconds each, on a machine that other tests keep busy. */
const MOST_PAIRS = 44;
const TIMES = 2;

/** Factors by which requests took longer, and the largest allowed factor. */
export interface Noticed {
  get: number;
  transition: number;
  atMost: number;
}

/** Medians: half of all pairs would have to show the attack. */
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
 * Alternates attack and rest, in at least `leastPairs` pairs, and in more while the result is in
 * doubt. All pairs count.
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
    // `await running` reports a failure of the attack.
    running.catch(() => {});
    // The attack gets going, and later its effects end, in series that are not measured.
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

/** A window, and the share of the machine's processors that this process uses in it. */
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
