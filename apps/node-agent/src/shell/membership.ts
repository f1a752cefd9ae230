/** This host's place in the fleet: it registers, renews its lease, and beats. */
import { ask, type Bus, publishCore } from "@torpor/bus";
import {
  compareObservations,
  decoder,
  type Heartbeat,
  inventoryDigest,
  LeaseReply,
  BEAT_EVERY_MS,
  MAX_INVENTORY_PER_BEAT,
  type Observation,
  type RegisterRequest,
  subjects,
} from "@torpor/contracts";
import { type Logger, pause } from "@torpor/service";
import { bootMs } from "../fence/clock.ts";
import type { StartLoad } from "../lifecycle/start-slots.ts";
import type { FenceLink } from "./fence-link.ts";

const decodeLease = decoder(LeaseReply);
const ASK_LIMIT_MS = 2_000;
const RETRY_MS = 500;
const FENCE_LOOK_MS = 500;

export interface Membership {
  isRegistered: boolean;
}

/**
 * Registers, then renews every third of the lease, and at once when the fence has died or come to life; registers again when told so. The lease is counted from before it was asked for.
 * Runs until the signal ends.
 */
export async function keepLease(
  bus: Bus,
  request: RegisterRequest,
  membership: Membership,
  fence: Pick<FenceLink, "look" | "renew">,
  signal: AbortSignal,
  log: Logger,
): Promise<void> {
  let timeoutMs = ASK_LIMIT_MS;
  while (!signal.aborted) {
    const isAlive = await fence.look();
    const askedAtBootMs = bootMs();
    const facts = { hostId: request.hostId, fence: { isAlive } };
    const question = membership.isRegistered ? ({ type: "lease", version: 1, ...facts } as const) : { ...request, ...facts };
    const reply = await ask(bus, subjects.ask(request.hostId, question.type), question, { timeoutMs, decode: decodeLease });
    if (reply.kind === "answer" && reply.value.granted) {
      // So that a question that gets no answer leaves time for others.
      timeoutMs = Math.min(ASK_LIMIT_MS, reply.value.leaseMs / 4);
      if (!membership.isRegistered) log.info({ leaseMs: reply.value.leaseMs }, "registered");
      membership.isRegistered = true;
      await fence
        .renew(askedAtBootMs, reply.value.leaseMs)
        .catch((err: unknown) => log.error({ err }, "the lease could not be written down: the fence goes by the one before it"));
      const renewAtBootMs = askedAtBootMs + reply.value.leaseMs / 3;
      while (bootMs() < renewAtBootMs && (await fence.look()) === isAlive)
        if (!(await pause(Math.min(FENCE_LOOK_MS, Math.max(1, renewAtBootMs - bootMs())), signal))) return;
      continue;
    }
    if (reply.kind === "answer") {
      log.warn({ reason: reply.value.reason }, "the lease was not granted");
      membership.isRegistered = false;
    }
    await pause(RETRY_MS, signal);
  }
}

/** Beats until the signal ends. A host with more sandboxes than fit sends an inventory in parts, one a beat, and then the next inventory. */
export async function beat(
  bus: Bus,
  hostId: string,
  look: () => { inventory: Observation[]; diskFreeMib: number | Promise<number>; starts: StartLoad },
  signal: AbortSignal,
): Promise<void> {
  const agentStartedAt = new Date().toISOString();
  let whole: Observation[] = [];
  let offset = 0;
  do {
    const { inventory, diskFreeMib, starts } = look();
    if (offset >= whole.length) [whole, offset] = [inventory, 0];
    const part = whole.slice(offset, offset + MAX_INVENTORY_PER_BEAT).map((seen) => newestOf(seen, inventory));
    offset += MAX_INVENTORY_PER_BEAT;
    const message: Heartbeat = {
      type: "heartbeat",
      version: 1,
      hostId,
      agentStartedAt,
      load: {
        vms: inventory.filter((seen) => seen.vmm !== undefined).length,
        residentBytes: inventory.reduce((sum, seen) => sum + (seen.vmm?.residentBytes ?? 0), 0),
        diskFreeMib: await diskFreeMib,
        ...starts,
      },
      inventory: part,
      inventoryCount: whole.length,
      inventoryDigest: inventoryDigest(whole),
    };
    publishCore(bus, subjects.beat(hostId), message);
  } while (await pause(BEAT_EVERY_MS, signal));
}

/** The same observation with what has no revision (its use, its memory) as it is now. One that is out of date stays in the inventory that it is of: the digest is of that. */
function newestOf(seen: Observation, inventory: Observation[]): Observation {
  return inventory.find((one) => one.sandboxId === seen.sandboxId && compareObservations(one, seen) === 0) ?? seen;
}
