/**
 * A client like the SDKs: a request is repeated after a broken connection or a 5xx, and every other
 * response is final.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { TestFleet } from "@torpor/testkit";

interface Answer {
  status: number;
  body: Record<string, unknown>;
}

const RETRY_AFTER_MS = 150;

/**
 * Returns the first final response. After `limitMs`, returns the last other one, with status 0 for
 * a broken connection.
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
 * Repeats a pause or resume that the host backed out of because its commit request got no reply in
 * time: nothing of the sandbox is lost.
 */
export async function transition(fleet: TestFleet, path: string, verb: string): Promise<Answer> {
  for (let tries = 1; ; tries += 1) {
    const answer = await insist(() => fleet.call("POST", `${path}/${verb}`));
    if (answer.body["code"] !== "OPERATION_CANCELLED" || tries === MAX_TRIES) return answer;
  }
}
