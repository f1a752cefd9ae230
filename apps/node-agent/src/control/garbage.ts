import { request, type Bus } from "@torpor/bus";
import {
  decoder,
  GarbageReply,
  type GarbageRequest,
  type HostId,
  subjects,
} from "@torpor/contracts";

const decodeGarbage = decoder(GarbageReply);
const REQUEST_LIMIT_MS = 10_000;

/**
 * Requests from any scheduler which snapshots in the store are garbage. No reply in time: none is.
 */
export function garbageAsker(bus: Bus, hostId: HostId) {
  return async (sandboxes: GarbageRequest["sandboxes"]): Promise<GarbageReply | undefined> => {
    const question: GarbageRequest = { type: "garbage", version: 1, hostId, sandboxes };
    const reply = await request(bus, subjects.request(hostId, "garbage"), question, {
      timeoutMs: REQUEST_LIMIT_MS,
      decode: decodeGarbage,
    });
    return reply.kind === "answer" ? reply.value : undefined;
  };
}
