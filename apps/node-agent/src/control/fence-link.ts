/**
 * The agent's side of the fence (../fence): writes the lease to a file, checks whether the fence is
 * alive, and requests permission to thaw frozen VMs.
 */
import { request, type Bus } from "@torpor/bus";
import {
  decoder,
  type HostId,
  type SandboxId,
  subjects,
  ThawReply,
  type ThawRequest,
} from "@torpor/contracts";
import { isAlive, type Logger, messageOf, type ProcessIdentity, sleep } from "@torpor/service";
import { bootMs, startedAtBootMs } from "../fence/clock.ts";
import { type FenceFiles, type Frozen, isSameRun, type Lease } from "../fence/files.ts";
import { renewed } from "../fence/rule.ts";
import type { HostFence } from "../lifecycle/context.ts";

const decodeThaw = decoder(ThawReply);
const REQUEST_LIMIT_MS = 2_000;
const LOOK_EVERY_MS = 500;
/** Sleep after a refusal, which turns into a grant only if the sandbox comes back here. */
const REQUEST_AGAIN_MS = 5_000;
const THAW_LIMIT_MS = 30_000;

export class FenceLink implements HostFence {
  private readonly files: FenceFiles;
  private lease: Omit<Lease, "bootId"> | undefined;
  /** State at the newest checks, for callers that cannot wait for one. */
  state = { isAlive: false, frozen: 0 };

  constructor(files: FenceFiles) {
    this.files = files;
  }

  /** Reads the lease that an earlier agent wrote: a restart is no gap in the lease. */
  async open(): Promise<void> {
    await this.files.prepare();
    this.lease = await this.files.readLease();
    await this.look();
  }

  /** Checks whether the fence is alive. */
  async look(): Promise<boolean> {
    this.state = { ...this.state, isAlive: await this.files.isFenceAlive() };
    return this.state.isAlive;
  }

  /** Renews the lease, durably: nothing relies on it before. */
  async renew(askedAtBootMs: number, leaseMs: number): Promise<void> {
    const answeredAtBootMs = bootMs();
    const before = await this.files.readLease();
    const lease = renewed(before, { askedAtBootMs, answeredAtBootMs, leaseMs });
    await this.files.writeLease(lease);
    this.lease = lease;
  }

  /** True while this host has its lease, as far as it knows. */
  leaseRuns(): boolean {
    return this.lease !== undefined && bootMs() < this.lease.untilBootMs;
  }

  covers(process: Pick<ProcessIdentity, "startTime">): boolean {
    return (
      this.lease !== undefined &&
      this.leaseRuns() &&
      startedAtBootMs(process) >= this.lease.sinceBootMs
    );
  }

  async refusal(): Promise<string | undefined> {
    if (!this.leaseRuns()) return "this host's lease has ended";
    return (await this.look()) ? undefined : "no fence (torpor-fence) runs on this host: start it";
  }

  async isFrozen(sandboxId: SandboxId): Promise<boolean> {
    const frozen = await this.files.readFrozen(sandboxId);
    return frozen !== undefined && isAlive(frozen);
  }

  async untilThawed(sandboxId: SandboxId, epoch: number, signal: AbortSignal): Promise<boolean> {
    const deadline = performance.now() + THAW_LIMIT_MS;
    for (;;) {
      const frozen = await this.files.readFrozen(sandboxId);
      if (frozen === undefined || frozen.epoch !== epoch || !isAlive(frozen)) return true;
      if (performance.now() > deadline || !(await sleep(LOOK_EVERY_MS / 5, signal))) return false;
    }
  }

  /**
   * Requests a thaw for every frozen VM, and writes a permit for the fence if it is granted, until
   * the signal aborts.
   */
  async requestThaws(bus: Bus, hostId: HostId, signal: AbortSignal, log: Logger): Promise<void> {
    const refused = new Map<SandboxId, { reason: string; againAt: number }>();
    do {
      const all = await this.files.listFrozen();
      this.state = { ...this.state, frozen: all.length };
      for (const frozen of all) {
        const { sandboxId } = frozen;
        if (!this.leaseRuns() || performance.now() < (refused.get(sandboxId)?.againAt ?? 0))
          continue;
        const reason = await this.requestThaw(bus, hostId, frozen);
        if (reason === undefined) refused.delete(sandboxId);
        else {
          if (refused.get(sandboxId)?.reason !== reason)
            log.warn({ sandboxId, epoch: frozen.epoch, reason }, "VM stayed frozen");
          refused.set(sandboxId, { reason, againAt: performance.now() + REQUEST_AGAIN_MS });
        }
      }
      for (const sandboxId of refused.keys())
        if (!all.some((frozen) => frozen.sandboxId === sandboxId)) refused.delete(sandboxId);
    } while (await sleep(LOOK_EVERY_MS, signal));
  }

  /** Returns why the VM may not continue; undefined if it may, or if the decision is still open. */
  private async requestThaw(
    bus: Bus,
    hostId: HostId,
    { sandboxId, epoch, pid, startTime, bootId }: Frozen,
  ): Promise<string | undefined> {
    // As of before the request: a reply that comes under a later lease is worth nothing.
    const sinceBootMs = this.lease?.sinceBootMs;
    if (sinceBootMs === undefined) return undefined;
    const permit = { sandboxId, epoch, pid, startTime, bootId, sinceBootMs };
    const known = await this.files.readPermit(sandboxId);
    if (known !== undefined && isSameRun(known, permit) && known.sinceBootMs === sinceBootMs)
      return undefined;
    const question: ThawRequest = { type: "thaw", version: 1, hostId, sandboxId, epoch };
    const reply = await request(bus, subjects.request(hostId, "thaw"), question, {
      timeoutMs: REQUEST_LIMIT_MS,
      decode: decodeThaw,
    });
    if (reply.kind === "no_answer") return undefined;
    if (!reply.value.granted) return reply.value.reason ?? "the control plane refused";
    return await this.files.writePermit(permit).then(
      () => undefined,
      (error: unknown) => `its permit could not be written down: ${messageOf(error)}`,
    );
  }
}
