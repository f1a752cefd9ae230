/**
 * The end of a gateway that is asked to stop, so that no client needs to know of it.
 *
 * GD1  The health report says so first, and for `delayMs` all goes on as before: whoever balances
 *      over gateways has time to look elsewhere.
 * GD2  Then no connection is taken any more. Those that there are carry what is under way to its
 *      answer, which closes them.
 * - What has none after `answerMs` is told to come again (503, nothing of the operation is undone),
 *   and streams are cut.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { FastifyInstance } from "fastify";
import type { Edge } from "./edge/edge.ts";

interface Drain {
  app: Pick<FastifyInstance, "close">;
  edge: Pick<Edge, "drain">;
  delayMs: number;
  answerMs: number;
  /** Aborted when `answerMs` are over: what still waits answers at once (Dependencies.stopping). */
  giveUp: AbortController;
}

/**
 * Resolves when nothing of the API is under way any more. What the edge then still carries is the
 * caller's to cut.
 */
export async function drain({ app, edge, delayMs, answerMs, giveUp }: Drain): Promise<void> {
  await sleep(delayMs);
  const isOver = new Promise((resolve) =>
    giveUp.signal.addEventListener("abort", resolve, { once: true }),
  );
  const timer = setTimeout(() => giveUp.abort(), answerMs);
  await Promise.all([app.close(), Promise.race([edge.drain(), isOver])]);
  clearTimeout(timer);
  giveUp.abort();
}
