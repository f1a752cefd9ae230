/** One step of a benchmark: a load, and the measurements under it. */
import { sleep } from "@torpor/service";
import type { Load } from "./load/loops.ts";
import { Tally } from "./load/tally.ts";
import { mapValues, type Meters, MeasuredWindow } from "./measure/window.ts";
import { beginCounting } from "./measure/statements.ts";
import type { StepResult } from "./report/result.ts";

export interface Timing {
  /** Length of the measured window. */
  seconds: number;
  warmSeconds: number;
  /** Length of the window that counts statements; 0: no such window. */
  countSeconds: number;
}

export interface StepPlan {
  name: string;
  unit: string;
  clients: number;
  /** 2 for a unit that is a create and a delete. */
  requestsPerUnit?: number;
  /** Requests that must succeed before the window: all clients begin with the same kind. */
  requestsBefore?: number;
  prepare(): Load | Promise<Load>;
}

/** A control plane slower than this is measured without waiting longer. */
const BEFORE_LIMIT_MS = 30_000;
const LOOK_EVERY_S = 0.1;

export const NOTHING: Load = { run: async () => {}, close: async () => {} };

/**
 * Throws when the signal aborts; what the load created then stays, since the fleet is thrown away.
 */
export async function measureStep(
  meters: Meters,
  plan: StepPlan,
  timing: Timing,
  signal: AbortSignal,
): Promise<StepResult> {
  const { name, unit, clients, requestsPerUnit = 1 } = plan;
  const load = await plan.prepare();
  const tally = new Tally();
  const stop = new AbortController();
  const running = load.run(tally, stop.signal);
  // A rejection is reported where `running` is awaited.
  running.catch(() => {});
  const units = () => tally.count() / requestsPerUnit;
  try {
    await wait(timing.warmSeconds, signal);
    await untilDone(tally, plan.requestsBefore ?? 0, signal);
    const window = await MeasuredWindow.begin(meters);
    tally.open();
    await wait(timing.seconds, signal);
    tally.close();
    const measured = await window.end(units);
    const doneIn = () => tally.done / requestsPerUnit;
    const statements = await countIn(meters, timing.countSeconds, doneIn, signal);
    const latencies = tally.latencies();
    const step = { name, unit, clients, ...measured, latencies, failed: tally.failedBy() };
    return { ...step, ...statements };
  } finally {
    stop.abort();
    await running;
    if (!signal.aborted) await load.close();
  }
}

async function untilDone(tally: Tally, requests: number, signal: AbortSignal): Promise<void> {
  const deadlineMs = performance.now() + BEFORE_LIMIT_MS;
  while (tally.done < requests && performance.now() < deadlineMs) await wait(LOOK_EVERY_S, signal);
}

async function countIn(
  meters: Meters,
  seconds: number,
  done: () => number,
  signal: AbortSignal,
): Promise<Pick<StepResult, "statementsPerSecond" | "statementsPerUnit">> {
  if (seconds === 0) return {};
  const counting = await beginCounting(meters.fleet, meters.sql);
  const [before, startedAt] = [done(), performance.now()];
  await wait(seconds, signal);
  const [count, tookS] = [done() - before, (performance.now() - startedAt) / 1_000];
  const counts = await counting.end();
  return {
    statementsPerSecond: mapValues(counts, (value) => value / tookS),
    ...(count === 0 ? {} : { statementsPerUnit: mapValues(counts, (value) => value / count) }),
  };
}

export async function wait(seconds: number, signal: AbortSignal): Promise<void> {
  await sleep(seconds * 1_000, signal);
  signal.throwIfAborted();
}
