/**
 * Stops a gateway without its clients noticing.
 *
 * GD1  The health report is `draining` first. For `delayMs` the gateway works as before, so that
 *      balancers have time to choose other gateways.
 * GD2  Then no connection is accepted any more. Each existing connection carries the request under
 *      way to its response, and closes.
 * - A request without a response after `answerMs` gets a 503 (its operation continues), and streams
 *   are cut.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { FastifyInstance } from "fastify";
import type { Edge } from "./edge/edge.ts";

interface Drain {
  app: Pick<FastifyInstance, "close">;
  edge: Pick<Edge, "drain">;
  delayMs: number;
  answerMs: number;
  /** Aborted after `answerMs`: requests that still wait respond at once (Dependencies.stopping). */
  giveUp: AbortController;
}

/** Resolves when no API request is under way. The caller cuts what the edge still carries. */
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
