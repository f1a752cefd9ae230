/** This host's place in the fleet: it registers, renews its lease, and beats. */
import { createHash } from "node:crypto";
import { ask, type Bus, publishCore } from "@torpor/bus";
import { decoder, type Heartbeat, LeaseReply, type Observation, type RegisterRequest, subjects } from "@torpor/contracts";
import { type Logger, pause } from "@torpor/service";
import { bootMs } from "../fence/clock.ts";
import type { FenceLink } from "./fence-link.ts";

const decodeLease = decoder(LeaseReply);
const ASK_LIMIT_MS = 2_000;
const RETRY_MS = 500;
const FENCE_LOOK_MS = 500;
const BEAT_EVERY_MS = 2_000;
const MAX_INVENTORY = 200;

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
  fence: FenceLink,
  signal: AbortSignal,
  log: Logger,
): Promise<void> {
  while (!signal.aborted) {
    const isAlive = await fence.look();
    const askedAtBootMs = bootMs();
    const facts = { hostId: request.hostId, fence: { isAlive } };
    const question = membership.isRegistered ? ({ type: "lease", version: 1, ...facts } as const) : { ...request, ...facts };
    const reply = await ask(bus, subjects.ask(request.hostId, question.type), question, { timeoutMs: ASK_LIMIT_MS, decode: decodeLease });
    if (reply.kind === "answer" && reply.value.granted) {
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

/** Beats until the signal ends. A host with more sandboxes than fit sends them in turn. */
export async function beat(
  bus: Bus,
  hostId: string,
  look: () => { inventory: Observation[]; diskFreeMib: number | Promise<number> },
  signal: AbortSignal,
): Promise<void> {
  const agentStartedAt = new Date().toISOString();
  let offset = 0;
  do {
    const { inventory, diskFreeMib } = look();
    const part = inventory.length <= MAX_INVENTORY ? inventory : [...inventory, ...inventory].slice(offset, offset + MAX_INVENTORY);
    offset = inventory.length === 0 ? 0 : (offset + MAX_INVENTORY) % inventory.length;
    const message: Heartbeat = {
      type: "heartbeat",
      version: 1,
      hostId,
      agentStartedAt,
      load: {
        vms: inventory.filter((seen) => seen.vmm !== undefined).length,
        residentBytes: inventory.reduce((sum, seen) => sum + (seen.vmm?.residentBytes ?? 0), 0),
        diskFreeMib: await diskFreeMib,
      },
      inventory: part,
      inventoryCount: inventory.length,
      inventoryDigest: digest(inventory),
    };
    publishCore(bus, subjects.beat(hostId), message);
  } while (await pause(BEAT_EVERY_MS, signal));
}

function digest(inventory: Observation[]): string {
  const lines = inventory.map((seen) => `${seen.sandboxId} ${seen.epoch} ${seen.opSeq} ${seen.revision}`).toSorted();
  return createHash("sha256").update(lines.join("\n")).digest("hex");
}
