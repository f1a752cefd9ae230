/**
 * A client as the SDKs are: a broken connection and a 5xx are sent again, everything else is an
 * answer.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { TestFleet } from "@torpor/testkit";

interface Answer {
  status: number;
  body: Record<string, unknown>;
}

const RETRY_AFTER_MS = 150;

/**
 * The first answer that is one; after `limitMs` the last that was none, with status 0 for a broken
 * connection.
 */
export async function insist<T extends Answer>(
  what: () => Promise<T>,
  limitMs = 60_000,
): Promise<Answer> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const answer = await what().catch((error: unknown) => ({
      status: 0,
      body: { message: String(error) },
    }));
    if ((answer.status !== 0 && answer.status < 500) || performance.now() > deadline) return answer;
    await sleep(RETRY_AFTER_MS);
  }
}

const MAX_TRIES = 5;

/**
 * A pause or resume that a host backed out of, as nobody answered it in time, is asked for again:
 * nothing of it is lost.
 */
export async function transition(fleet: TestFleet, path: string, verb: string): Promise<Answer> {
  for (let tries = 1; ; tries += 1) {
    const answer = await insist(() => fleet.call("POST", `${path}/${verb}`));
    if (answer.body["code"] !== "OPERATION_CANCELLED" || tries === MAX_TRIES) return answer;
  }
}
