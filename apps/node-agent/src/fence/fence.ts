/**
 * The fence: when this host's lease ends it freezes the VMs that may be restored elsewhere
 * (`on_host_loss: restore`), whatever the agent does or fails to do. It asks nobody and talks to
 * nobody; what it goes by are files and its own clock.
 *
 * FE1  It alone freezes and thaws, one look at a time, so nothing can come between its look at the
 *      lease and what it does about it.
 * FE2  It thaws what the agent has been permitted to, while the lease under which that was asked
 *      for still runs. It never thaws on its own.
 * FE3  What it has frozen is on disk, so that another fence, or another agent, takes it for frozen
 *      too.
 */
import { messageOf } from "@torpor/service";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { isAlive } from "@torpor/service/processes";
import { isNotFound, readJson } from "../host/files.ts";
import { bootMs } from "./clock.ts";
import { type FenceFiles, type Frozen, isSameRun, type Lease, type Run } from "./files.ts";
import { freeze, stands, thaw } from "./freeze.ts";
import { type Guarded, mayRun } from "./rule.ts";

/** Where nothing is new: what was started or touched by others is seen after so long. */
const SCAN_EVERY_MS = 500;

interface FenceLog {
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export class Fence {
  private readonly files: FenceFiles;
  private readonly log: FenceLog;
  /** What the newest look at all VMs went by; undefined when it left something to do. */
  private settled:
    | { sinceBootMs: number | undefined; atBootMs: number; frozen: number }
    | undefined;
  /** Said once for as long as it lasts. */
  private readonly failures = new Map<string, string>();

  constructor(files: FenceFiles, log: FenceLog) {
    this.files = files;
    this.log = log;
  }

  /** Looks at the lease, and at the VMs where that can change anything. */
  async look(): Promise<void> {
    const lease = await this.files.readLease();
    const now = bootMs();
    const sinceBootMs =
      lease !== undefined && now < lease.untilBootMs ? lease.sinceBootMs : undefined;
    if (this.settled !== undefined && this.settled.sinceBootMs === sinceBootMs) {
      // Those that are started while the lease runs may run, and nothing is left that may not.
      if (sinceBootMs !== undefined && this.settled.frozen === 0) return;
      if (now - this.settled.atBootMs < SCAN_EVERY_MS) return;
    }
    this.settled = undefined;
    const names = await readdir(join(this.files.dataDir, "vm")).catch((error: unknown) => {
      if (isNotFound(error)) return [];
      throw error;
    });
    // One that cannot be looked at does not keep the others from being frozen.
    const looks = await Promise.allSettled(names.map((sandboxId) => this.lookAt(sandboxId, lease)));
    const frozen = await this.forgetEnded();
    const failed = looks.find((look) => look.status === "rejected");
    if (failed !== undefined) throw failed.reason;
    if (looks.every((look) => look.status === "fulfilled" && look.value))
      this.settled = { sinceBootMs, atBootMs: now, frozen };
  }

  /** False: something is left to do. Throws when it cannot be told. */
  private async lookAt(sandboxId: string, lease: Lease | undefined): Promise<boolean> {
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

  /** False: it could not be done, and is tried again at the next look. */
  private async enforce(vm: Guarded, lease: Lease | undefined): Promise<boolean> {
    const { run, frozen } = vm;
    const isKnown = frozen !== undefined && isSameRun(frozen, run);
    try {
      // The newest time, right before it is acted upon: the look may have taken long.
      if (mayRun(vm, lease, bootMs())) {
        if (isKnown) await this.thaw(frozen);
      } else if (!isKnown || !(await stands(run, frozen.by))) await this.freeze(run);
      this.failures.delete(run.sandboxId);
      return true;
    } catch (error) {
      const reason = messageOf(error);
      if (isAlive(run) && this.failures.get(run.sandboxId) !== reason)
        this.log.error({ ...run, reason }, "a VM could not be frozen or thawed");
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
    this.log.warn(frozen, "a VM is frozen: the lease of this host does not cover it");
  }

  private async thaw(frozen: Frozen): Promise<void> {
    await thaw(frozen, frozen.by);
    await this.files.forget(frozen.sandboxId);
    const thawed = { ...frozen, thawedAt: new Date().toISOString(), thawedAtBootMs: bootMs() };
    this.log.warn(thawed, "a VM goes on: the control plane permits it");
  }

  /** Returns how many are left. */
  private async forgetEnded(): Promise<number> {
    const all = await this.files.listFrozen();
    const ended = all.filter((frozen) => !isAlive(frozen));
    for (const { sandboxId } of ended) await this.files.forget(sandboxId);
    return all.length - ended.length;
  }
}
