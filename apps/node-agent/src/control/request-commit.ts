import { setTimeout as sleep } from "node:timers/promises";
import { request, type Bus } from "@torpor/bus";
import { CommitReply, type CommitRequest, decoder, type HostId, subjects } from "@torpor/contracts";
import type { CommitAnswer, LifecycleDeps } from "../lifecycle/context.ts";

const decodeCommit = decoder(CommitReply);
/**
 * Limit of all attempts. Schedulers that are being replaced, and a NATS cluster that elects a
 * leader, are back by then.
 */
const LIMIT_MS = 6_000;
const REQUEST_LIMIT_MS = 2_000;
/** Sleep between attempts: without a subscriber, a request fails at once. */
const RETRY_MS = 200;

/**
 * Requests the commit from any scheduler. No reply in time is a refusal: the operation backs out,
 * and nothing is lost.
 */
export function commitAsker(bus: Bus, hostId: HostId): LifecycleDeps["commit"] {
  return async (operation): Promise<CommitAnswer> => {
    const question: CommitRequest = { type: "commit", version: 1, hostId, ...operation };
    for (
      const deadline = performance.now() + LIMIT_MS;
      performance.now() < deadline;
      await sleep(RETRY_MS)
    ) {
      const reply = await request(bus, subjects.request(hostId, "commit"), question, {
        timeoutMs: REQUEST_LIMIT_MS,
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
