/** A client as the SDKs are: a broken connection and a 5xx are sent again, everything else is an answer. */
import { setTimeout as sleep } from "node:timers/promises";

interface Answer {
  status: number;
  body: Record<string, unknown>;
}

const RETRY_AFTER_MS = 150;

/** The first answer that is one; after `limitMs` the last that was none, with status 0 for a broken connection. */
export async function insist<T extends Answer>(what: () => Promise<T>, limitMs = 60_000): Promise<Answer> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const answer = await what().catch((error: unknown) => ({ status: 0, body: { message: String(error) } }));
    if ((answer.status !== 0 && answer.status < 500) || performance.now() > deadline) return answer;
    await sleep(RETRY_AFTER_MS);
  }
}
