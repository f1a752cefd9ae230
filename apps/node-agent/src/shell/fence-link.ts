/**
 * The agent's side of the fence (../fence): it writes the lease down, sees whether the fence lives,
 * and asks the control plane about what was frozen.
 */
import { request, type Bus } from "@torpor/bus";
import { decoder, subjects, ThawReply, type ThawRequest } from "@torpor/contracts";
import { isAlive, type Logger, messageOf, type ProcessIdentity, sleep } from "@torpor/service";
import { bootMs, startedAtBootMs } from "../fence/clock.ts";
import { type FenceFiles, type Frozen, isSameRun, type Lease } from "../fence/files.ts";
import { renewed } from "../fence/rule.ts";
import type { HostFence } from "../lifecycle/context.ts";

const decodeThaw = decoder(ThawReply);
const ASK_LIMIT_MS = 2_000;
const LOOK_EVERY_MS = 500;
/** After a no: it becomes a yes only if the sandbox comes back here. */
const ASK_AGAIN_MS = 5_000;
const THAW_LIMIT_MS = 30_000;

export class FenceLink implements HostFence {
  private readonly files: FenceFiles;
  private lease: Omit<Lease, "bootId"> | undefined;
  /** As of the newest looks, for those that cannot wait for one. */
  state = { isAlive: false, frozen: 0 };

  constructor(files: FenceFiles) {
    this.files = files;
  }

  /** What an earlier agent has written: a restart is no gap in the lease. */
  async open(): Promise<void> {
    await this.files.prepare();
    this.lease = await this.files.readLease();
    await this.look();
  }

  /** Whether the fence lives. */
  async look(): Promise<boolean> {
    this.state = { ...this.state, isAlive: await this.files.isFenceAlive() };
    return this.state.isAlive;
  }

  /** Durable before anything relies on it. */
  async renew(askedAtBootMs: number, leaseMs: number): Promise<void> {
    const answeredAtBootMs = bootMs();
    const before = await this.files.readLease();
    const lease = renewed(before, { askedAtBootMs, answeredAtBootMs, leaseMs });
    await this.files.writeLease(lease);
    this.lease = lease;
  }

  /** This host has its lease, by what it has heard. */
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

  async isFrozen(sandboxId: string): Promise<boolean> {
    const frozen = await this.files.readFrozen(sandboxId);
    return frozen !== undefined && isAlive(frozen);
  }

  async untilThawed(sandboxId: string, epoch: number, signal: AbortSignal): Promise<boolean> {
    const deadline = performance.now() + THAW_LIMIT_MS;
    for (;;) {
      const frozen = await this.files.readFrozen(sandboxId);
      if (frozen === undefined || frozen.epoch !== epoch || !isAlive(frozen)) return true;
      if (performance.now() > deadline || !(await sleep(LOOK_EVERY_MS / 5, signal))) return false;
    }
  }

  /**
   * Asks about every frozen VM, and hands what is permitted to the fence, until the signal ends.
   */
  async requestThaws(bus: Bus, hostId: string, signal: AbortSignal, log: Logger): Promise<void> {
    const refused = new Map<string, { reason: string; againAt: number }>();
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
            log.warn({ sandboxId, epoch: frozen.epoch, reason }, "a VM stays frozen");
          refused.set(sandboxId, { reason, againAt: performance.now() + ASK_AGAIN_MS });
        }
      }
      for (const sandboxId of refused.keys())
        if (!all.some((frozen) => frozen.sandboxId === sandboxId)) refused.delete(sandboxId);
    } while (await sleep(LOOK_EVERY_MS, signal));
  }

  /** Undefined: it may go on, or is not to be decided now. Else why it may not. */
  private async requestThaw(
    bus: Bus,
    hostId: string,
    { sandboxId, epoch, pid, startTime, bootId }: Frozen,
  ): Promise<string | undefined> {
    // As it is before the question: an answer that comes under a later lease is worth nothing.
    const sinceBootMs = this.lease?.sinceBootMs;
    if (sinceBootMs === undefined) return undefined;
    const permit = { sandboxId, epoch, pid, startTime, bootId, sinceBootMs };
    const known = await this.files.readPermit(sandboxId);
    if (known !== undefined && isSameRun(known, permit) && known.sinceBootMs === sinceBootMs)
      return undefined;
    const question: ThawRequest = { type: "thaw", version: 1, hostId, sandboxId, epoch };
    const reply = await request(bus, subjects.ask(hostId, "thaw"), question, {
      timeoutMs: ASK_LIMIT_MS,
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
