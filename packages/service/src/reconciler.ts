import type { Logger } from "pino";
import { withTimeLimit } from "./time-limit.ts";

/** After this time a round is given up, and the next round begins from the start. */
const ROUND_LIMIT_MS = 20_000;

export interface ReconcilerOptions {
  name: string;
  everyMs: number;
  /**
   * Time limit of one round; default 20 s. A longer round is given up, and may overlap the next.
   */
  limitMs?: number;
  /** `isKicked`: the round was requested, instead of due by the clock. */
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
  /** Runs the next round now; during a round, another one follows. */
  kick(): void;
  /** The newest round, with the time of the last success, and since when all rounds have failed. */
  last(): LastRound | undefined;
  /** Resolves when the loop has ended. */
  ended: Promise<void>;
}

/**
 * Runs `run` repeatedly: one round at a time, about every `everyMs`, sooner when kicked. A round
 * that throws is logged, once in a row for the same error; the next round is the retry.
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
      // Once per outage: the same line every second would bury everything else.
      const error = String(rootCauseOf(err));
      const isKnown = last?.error === error;
      last = failed(last, error);
      if (!isKnown && !options.signal.aborted)
        options.log.error(
          { err, reconciler: options.name },
          "reconciler round failed; retried until it succeeds",
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

/** Without the outer errors, which contain the query and its values: those are only for the log. */
function rootCauseOf(error: unknown): unknown {
  return error instanceof Error && error.cause !== undefined ? rootCauseOf(error.cause) : error;
}

function failed(before: LastRound | undefined, error: string): LastRound {
  const at = new Date().toISOString();
  const { succeededAt, failingSince = at } = before ?? {};
  return { at, error, failingSince, ...(succeededAt === undefined ? {} : { succeededAt }) };
}
