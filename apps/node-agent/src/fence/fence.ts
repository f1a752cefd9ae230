/**
 * The fence: when this host's lease ends, it freezes the VMs that may be restored elsewhere
 * (`on_host_loss: restore`), whatever the agent does or fails to do. The fence uses only files and
 * its own clock, and talks to no other program.
 *
 * FE1  Only the fence freezes and thaws, in one round at a time, so nothing comes between its
 *      reading of the lease and its action.
 * FE2  The fence thaws a VM only with the agent's permit, while the lease under which the permit
 *      was requested still runs. The fence never thaws on its own.
 * FE3  Frozen VMs are recorded on disk, so that another fence, or another agent, knows them as
 *      frozen.
 */
import type { SandboxId } from "@torpor/contracts";
import { messageOf } from "@torpor/service/message-of";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { isAlive } from "@torpor/service/processes";
import { isNotFound, readJson } from "../host/files.ts";
import { bootMs } from "./clock.ts";
import { type FenceFiles, type Frozen, isSameRun, type Lease, type Run } from "./files.ts";
import { freeze, stands, thaw } from "./freeze.ts";
import { type Guarded, mayRun } from "./rule.ts";

/** Interval of scans while the lease is unchanged: what others start or thaw is seen within it. */
const SCAN_EVERY_MS = 500;

interface FenceLog {
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export class Fence {
  private readonly files: FenceFiles;
  private readonly log: FenceLog;
  /** Lease and time of the newest scan of all VMs; undefined if the scan left something to do. */
  private settled:
    | { sinceBootMs: number | undefined; atBootMs: number; frozen: number }
    | undefined;
  /** Last logged failure by sandbox: a failure is logged once while it lasts. */
  private readonly failures = new Map<SandboxId, string>();

  constructor(files: FenceFiles, log: FenceLog) {
    this.files = files;
    this.log = log;
  }

  /** Reads the lease, and scans the VMs if that can change anything. */
  async look(): Promise<void> {
    const lease = await this.files.readLease();
    const now = bootMs();
    const sinceBootMs =
      lease !== undefined && now < lease.untilBootMs ? lease.sinceBootMs : undefined;
    if (this.settled !== undefined && this.settled.sinceBootMs === sinceBootMs) {
      // VMs that start while the lease runs may run, and no frozen VM is left.
      if (sinceBootMs !== undefined && this.settled.frozen === 0) return;
      if (now - this.settled.atBootMs < SCAN_EVERY_MS) return;
    }
    this.settled = undefined;
    const names = await readdir(join(this.files.dataDir, "vm")).catch((error: unknown) => {
      if (isNotFound(error)) return [];
      throw error;
    });
    // A directory has the id of its sandbox as its name. A VM that cannot be read does not keep the
    // others from being frozen.
    const looks = await Promise.allSettled(
      names.map((name) => this.lookAt(name as SandboxId, lease)),
    );
    const frozen = await this.forgetEnded();
    const failed = looks.find((look) => look.status === "rejected");
    if (failed !== undefined) throw failed.reason;
    if (looks.every((look) => look.status === "fulfilled" && look.value))
      this.settled = { sinceBootMs, atBootMs: now, frozen };
  }

  /**
   * Enforces the rule for one VM. False: something is left to do. Throws if files cannot be read.
   */
  private async lookAt(sandboxId: SandboxId, lease: Lease | undefined): Promise<boolean> {
    const found = await readJson<Run & { isFenced?: boolean }>(
      join(this.files.dataDir, "vm", sandboxId, "run.json"),
    );
    if (found?.isFenced !== true || !isAlive(found)) return true;
    const { pid, startTime, bootId, epoch } = found;
    const [frozen, permit] = await Promise.all([
      this.files.readFrozen(sandboxId),
      this.files.readPermit(sandboxId),
    ]);
    return await this.enforce(
      { run: { sandboxId, epoch, pid, startTime, bootId }, frozen, permit },
      lease,
    );
  }

  /** Freezes or thaws a VM as needed. False: that failed, and the next round tries again. */
  private async enforce(vm: Guarded, lease: Lease | undefined): Promise<boolean> {
    const { run, frozen } = vm;
    const isKnown = frozen !== undefined && isSameRun(frozen, run);
    try {
      // The time is read right before the action, because reading the files may take long.
      if (mayRun(vm, lease, bootMs())) {
        if (isKnown) await this.thaw(frozen);
      } else if (!isKnown || !(await stands(run, frozen.by))) await this.freeze(run);
      this.failures.delete(run.sandboxId);
      return true;
    } catch (error) {
      const reason = messageOf(error);
      if (isAlive(run) && this.failures.get(run.sandboxId) !== reason)
        this.log.error({ ...run, reason }, "VM could not be frozen or thawed");
      this.failures.set(run.sandboxId, reason);
      return false;
    }
  }

  private async freeze(run: Run): Promise<void> {
    const by = await freeze(run);
    const frozen: Frozen = {
      ...run,
      by,
      frozenAt: new Date().toISOString(),
      frozenAtBootMs: bootMs(),
    };
    await this.files.writeFrozen(frozen);
    this.log.warn(frozen, "VM frozen: the lease of this host did not cover it");
  }

  private async thaw(frozen: Frozen): Promise<void> {
    await thaw(frozen, frozen.by);
    await this.files.forget(frozen.sandboxId);
    const thawed = { ...frozen, thawedAt: new Date().toISOString(), thawedAtBootMs: bootMs() };
    this.log.warn(thawed, "VM thawed: the control plane permitted it");
  }

  /** Forgets ended VMs. Returns how many frozen VMs are left. */
  private async forgetEnded(): Promise<number> {
    const all = await this.files.listFrozen();
    const ended = all.filter((frozen) => !isAlive(frozen));
    for (const { sandboxId } of ended) await this.files.forget(sandboxId);
    return all.length - ended.length;
  }
}
