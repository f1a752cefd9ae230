import { request, type Bus } from "@torpor/bus";
import { decoder, GarbageReply, type GarbageRequest, subjects } from "@torpor/contracts";

const decodeGarbage = decoder(GarbageReply);
const ASK_LIMIT_MS = 10_000;

/** Asks whichever scheduler answers. None in time: nothing is garbage. */
export function garbageAsker(bus: Bus, hostId: string) {
  return async (sandboxes: GarbageRequest["sandboxes"]): Promise<GarbageReply | undefined> => {
    const question: GarbageRequest = { type: "garbage", version: 1, hostId, sandboxes };
    const reply = await request(bus, subjects.ask(hostId, "garbage"), question, {
      timeoutMs: ASK_LIMIT_MS,
      decode: decodeGarbage,
    });
    return reply.kind === "answer" ? reply.value : undefined;
  };
}
