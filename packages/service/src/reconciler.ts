import type { Logger } from "pino";
import { withTimeLimit } from "./time-limit.ts";

/** Whatever a round still waits for then, the next one asks anew. */
const ROUND_LIMIT_MS = 20_000;

export interface ReconcilerOptions {
  name: string;
  everyMs: number;
  /** Of one round; 20 s. A round that takes longer is given up, and may overlap with the next. */
  limitMs?: number;
  /** `isKicked`: it is asked for now, not by the clock. */
  run(round: { isKicked: boolean }): Promise<Record<string, number>>;
  signal: AbortSignal;
  log: Logger;
}

interface LastRound {
  at: string;
  result?: Record<string, number>;
  error?: string;
  succeededAt?: string;
  failingSince?: string;
}

export interface Reconciler {
  /** Runs the next round now; a round in progress is followed by another. */
  kick(): void;
  /**
   * Of the newest round; with when the newest one succeeded that did, and since when all have
   * failed.
   */
  last(): LastRound | undefined;
  /** Resolves when the loop has ended. */
  ended: Promise<void>;
}

/**
 * Runs `run` again and again: one round at a time, about every `everyMs`, sooner when kicked. A
 * round that throws is logged, once for as long as it fails in the same way; the next one is the
 * retry.
 */
export function startReconciler(options: ReconcilerOptions): Reconciler {
  let wake: (() => void) | undefined;
  let kicked = false;
  let last: LastRound | undefined;
  const idle = () =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, options.everyMs * (0.9 + Math.random() / 5));
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  options.signal.addEventListener("abort", () => wake?.(), { once: true });
  const round = async (isKicked: boolean) => {
    try {
      const result = await withTimeLimit(
        options.run({ isKicked }),
        options.limitMs ?? ROUND_LIMIT_MS,
        "the round",
      );
      const at = new Date().toISOString();
      last = { at, result, succeededAt: at };
    } catch (err) {
      // Once per outage: the same line every second would bury what else happens.
      const error = String(rootCauseOf(err));
      const isKnown = last?.error === error;
      last = failed(last, error);
      if (!isKnown && !options.signal.aborted)
        options.log.error(
          { err, reconciler: options.name },
          "reconciler round failed; it is tried again until it succeeds",
        );
    }
  };
  const loop = async () => {
    while (!options.signal.aborted) {
      const isKicked = kicked;
      kicked = false;
      await round(isKicked);
      if (!kicked && !options.signal.aborted) await idle();
    }
  };
  return {
    kick() {
      kicked = true;
      wake?.();
    },
    last: () => last,
    ended: loop(),
  };
}

/** What a query was is for the log; its values are for nobody else. */
function rootCauseOf(error: unknown): unknown {
  return error instanceof Error && error.cause !== undefined ? rootCauseOf(error.cause) : error;
}

function failed(before: LastRound | undefined, error: string): LastRound {
  const at = new Date().toISOString();
  const { succeededAt, failingSince = at } = before ?? {};
  return { at, error, failingSince, ...(succeededAt === undefined ? {} : { succeededAt }) };
}
