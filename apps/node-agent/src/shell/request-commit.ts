import { setTimeout as sleep } from "node:timers/promises";
import { request, type Bus } from "@torpor/bus";
import { CommitReply, type CommitRequest, decoder, subjects } from "@torpor/contracts";
import type { CommitAnswer, LifecycleDeps } from "../lifecycle/context.ts";

const decodeCommit = decoder(CommitReply);
/**
 * Of all attempts: schedulers that are being replaced, and a NATS cluster that elects a leader, are
 * back by then.
 */
const LIMIT_MS = 6_000;
const ASK_LIMIT_MS = 2_000;
/** Where nobody listens, that is known at once. */
const RETRY_MS = 200;

/**
 * Asks whichever scheduler answers. None in time is a no: the operation backs out, and nothing is
 * lost.
 */
export function commitAsker(bus: Bus, hostId: string): LifecycleDeps["commit"] {
  return async (operation): Promise<CommitAnswer> => {
    const question: CommitRequest = { type: "commit", version: 1, hostId, ...operation };
    for (
      const deadline = performance.now() + LIMIT_MS;
      performance.now() < deadline;
      await sleep(RETRY_MS)
    ) {
      const reply = await request(bus, subjects.ask(hostId, "commit"), question, {
        timeoutMs: ASK_LIMIT_MS,
        decode: decodeCommit,
      });
      if (reply.kind === "no_answer") continue;
      return reply.value.granted
        ? { kind: "granted" }
        : { kind: "refused", reason: reply.value.reason ?? "the control plane refused" };
    }
    return { kind: "refused", reason: "no scheduler answered" };
  };
}
