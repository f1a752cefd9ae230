/** Membership of this host in the fleet: registration, lease and heartbeats. */
import { request, type Bus, publishCore } from "@torpor/bus";
import {
  decoder,
  type Heartbeat,
  HEARTBEAT_EVERY_MS,
  type HostId,
  LeaseReply,
  type Observation,
  type RegisterRequest,
  subjects,
} from "@torpor/contracts";
import { type Logger, sleep } from "@torpor/service";
import { bootMs } from "../fence/clock.ts";
import type { StartLoad } from "../lifecycle/start-slots.ts";
import type { FenceLink } from "./fence-link.ts";
import { type InventoryRequest, InventoryReport, progressOf } from "./inventory-report.ts";

const decodeLease = decoder(LeaseReply);
const REQUEST_LIMIT_MS = 2_000;
const RETRY_MS = 500;
const FENCE_LOOK_MS = 500;

export interface Membership {
  isRegistered: boolean;
  /** The host gets no new sandboxes. */
  isClosed?: boolean;
  /** Content that heartbeats have to report; undefined: everything. */
  wanted?: InventoryRequest | undefined;
}

/**
 * True while new sandboxes may come. A host without a reply stays registered, but its lease still
 * ends.
 */
export function isOpen(
  { isRegistered, isClosed }: Membership,
  fence: Pick<FenceLink, "leaseRuns">,
): boolean {
  return isRegistered && isClosed !== true && fence.leaseRuns();
}

/**
 * Registers, then renews after every third of the lease, and at once when the fence has died or
 * started. Registers again after a refusal. The lease counts from before the request. Runs until
 * the signal aborts.
 */
export async function keepLease(
  bus: Bus,
  registration: RegisterRequest,
  membership: Membership,
  fence: Pick<FenceLink, "look" | "renew">,
  signal: AbortSignal,
  log: Logger,
): Promise<void> {
  let timeoutMs = REQUEST_LIMIT_MS;
  while (!signal.aborted) {
    const isAlive = await fence.look();
    const askedAtBootMs = bootMs();
    const facts = { hostId: registration.hostId, fence: { isAlive } };
    const question = membership.isRegistered
      ? ({ type: "lease", version: 1, ...facts } as const)
      : { ...registration, ...facts };
    const reply = await request(
      bus,
      subjects.request(registration.hostId, question.type),
      question,
      {
        timeoutMs,
        decode: decodeLease,
      },
    );
    // Unchanged without a reply: reporting everything would burden schedulers that are too busy to
    // reply.
    if (reply.kind === "answer") {
      membership.wanted = wantedBy(reply.value);
      membership.isClosed = reply.value.getsNoSandboxes === true;
    }
    if (reply.kind === "answer" && reply.value.granted) {
      // A request without a reply has to leave time for others within the lease.
      timeoutMs = Math.min(REQUEST_LIMIT_MS, reply.value.leaseMs / 4);
      if (!membership.isRegistered) log.info({ leaseMs: reply.value.leaseMs }, "registered");
      membership.isRegistered = true;
      await fence
        .renew(askedAtBootMs, reply.value.leaseMs)
        .catch((err: unknown) =>
          log.error({ err }, "lease could not be written; the fence keeps the lease before it"),
        );
      const renewAtBootMs = askedAtBootMs + reply.value.leaseMs / 3;
      while (bootMs() < renewAtBootMs && (await fence.look()) === isAlive)
        if (!(await sleep(Math.min(FENCE_LOOK_MS, Math.max(1, renewAtBootMs - bootMs())), signal)))
          return;
      continue;
    }
    if (reply.kind === "answer") {
      log.warn({ reason: reply.value.reason }, "lease not granted");
      membership.isRegistered = false;
    }
    await sleep(RETRY_MS, signal);
  }
}

function wantedBy({ reconciledInventory, showSandboxes = [] }: LeaseReply): InventoryRequest {
  return { reconciled: reconciledInventory, show: showSandboxes };
}

const EVERYTHING: InventoryRequest = { reconciled: undefined, show: [] };

/** Publishes heartbeats until the signal aborts. */
export async function heartbeat(
  bus: Bus,
  hostId: HostId,
  look: () => {
    inventory: Observation[];
    diskFreeMib: number | Promise<number>;
    starts: StartLoad;
  },
  membership: Membership,
  signal: AbortSignal,
): Promise<void> {
  const agentStartedAt = new Date().toISOString();
  const report = new InventoryReport();
  let turn = 0;
  do {
    const { inventory, diskFreeMib, starts } = look();
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
      ...report.next(inventory, membership.wanted ?? EVERYTHING),
      ...progressOf(inventory, turn),
    };
    turn += 1;
    publishCore(bus, subjects.heartbeat(hostId), message);
  } while (await sleep(HEARTBEAT_EVERY_MS, signal));
}
