/**
 * VMs that are kept warm for the creates to come (docs/hosts.md, decision 41).
 *
 * WP1  One is taken once: out of this process's list first, then by the rename of its directory to
 *      the sandbox's, which is when it is somebody's. Before the rename it is nobody's, whatever is
 *      in it; an agent that starts ends all that are nobody's.
 * WP2  What was taken is used by the process that took it, and by no other: after a crash its
 *      create starts over, as any other does.
 * WP3  It has only what no sandbox has reserved, and gives way before a sandbox begins to run.
 * WP4  None has run an instruction since its snapshot: it becomes a sandbox's as a clone does.
 */
import { rename } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { pause as wait } from "@torpor/service";
import type { SandboxSpec } from "@torpor/contracts";
import { moveVmm, findLiveRun } from "../drivers/vmm-process.ts";
import { durableStep } from "../host/durable-step.ts";
import { fsyncPath, writeDurably } from "../host/files.ts";
import { availableMemoryMib } from "../host/memory.ts";
import { findImage } from "../images.ts";
import { type LifecycleDeps, messageOf } from "./context.ts";
import { findGolden } from "./golden.ts";
import type { VmRecord } from "./record.ts";
import { type WarmKind, warmTargets } from "./warm-target.ts";
import { dropAllWarm, dropWarm, fits, makeWarm, type WarmVm } from "./warm-vm.ts";

export interface WarmSettings {
  /** 0: none is kept. */
  max: number;
  /** That this host offers to sandboxes. */
  memoryMib: number;
}

/** What the pool goes by beside its own VMs. */
export interface WarmView {
  /** Memory of the sandboxes that run here, or are about to. */
  reservedMib(): number;
  /** No run is begun now, and none waits for that. */
  isIdle(): boolean;
  /** Whether new sandboxes may come to this host. */
  isOpen(): boolean;
}

const LOOK_EVERY_MS = 500;
const DEMAND_KEPT_MS = 10 * 60_000;
/** After a VM could not be made. */
const RETRY_MS = 10_000;

export class WarmPool {
  private readonly deps: LifecycleDeps;
  private readonly settings: WarmSettings;
  private readonly view: WarmView;
  private readonly kept: WarmVm[] = [];
  /** Sandboxes whose VM was taken for them, and is not used yet. */
  private readonly taken = new Set<string>();
  private taking = 0;
  /** Times of the newest creates, by image. */
  private readonly creates = new Map<string, number[]>();
  private making: { memoryMib: number; abort: AbortController; ended: Promise<void> } | undefined;
  private readonly ending = new Set<Promise<void>>();
  private isClosed = false;

  constructor(deps: LifecycleDeps, settings: WarmSettings, view: WarmView) {
    this.deps = deps;
    this.settings = settings;
    this.view = view;
  }

  get size(): number {
    return this.kept.length;
  }

  /** WP1, after a crash. */
  async open(): Promise<void> {
    await dropAllWarm(this.deps.driver, this.deps.store.dataDir);
  }

  /** Makes the sandbox's directory out of a VM's that is kept for such creates, if there is one. Nothing of it is known before it is journalled. */
  async take(record: VmRecord): Promise<void> {
    const { spec } = record;
    if (this.settings.max === 0 || this.taken.has(spec.sandboxId)) return;
    this.noteCreate(spec);
    const at = this.kept.findIndex((warm) => fits(warm, spec.imageSha256, spec.resources));
    const [warm] = at < 0 ? [] : this.kept.splice(at, 1);
    if (warm === undefined) return;
    this.taking += 1;
    try {
      if (await this.isGuardable(warm, spec)) await this.hand(warm, record);
      else await dropWarm(this.deps.driver, warm.vm);
    } catch (error) {
      const reason = messageOf(error);
      this.deps.log.warn({ sandboxId: spec.sandboxId, reason }, "a warm VM could not be taken");
      // Past the rename it is the sandbox's, whose create ends it.
      if ((await findLiveRun(warm.vm)) === undefined) return;
      delete record.hostName;
      await dropWarm(this.deps.driver, warm.vm);
    } finally {
      this.taking -= 1;
    }
  }

  /** The create was not journalled: what was taken for it is ended, and is nobody's. */
  async undo(record: VmRecord): Promise<void> {
    if (!this.taken.delete(record.spec.sandboxId)) return;
    await this.deps.driver.end(this.deps.store.vmOf(record), { graceMs: 0 });
  }

  private isIdle(): boolean {
    return this.taking + this.taken.size === 0 && this.view.isIdle();
  }

  private async hand({ vm }: WarmVm, record: VmRecord): Promise<void> {
    const { store } = this.deps;
    const to = store.dirOf(record.spec.sandboxId);
    record.hostName = basename(vm.dir);
    await writeDurably(join(vm.dir, "vm.json"), JSON.stringify(record));
    await durableStep("take warm vm", async () => {
      await rename(vm.dir, to);
      await fsyncPath(dirname(to));
    });
    moveVmm(vm.dir, to);
    this.taken.add(record.spec.sandboxId);
  }

  /** The fence lets a run go on that began under the lease that the host has: one of before stands until somebody is asked. */
  private async isGuardable({ vm }: WarmVm, { onHostLoss }: SandboxSpec): Promise<boolean> {
    if (onHostLoss !== "restore") return true;
    const run = await findLiveRun(vm);
    return run !== undefined && this.deps.fence.covers(run);
  }

  /** Whether the sandbox's VM was taken by this process, and not used yet (WP2). */
  uses(sandboxId: string): boolean {
    return this.taken.delete(sandboxId);
  }

  /** To be called once what begins to run has its memory reserved, and before it begins (WP3). */
  async giveWay(): Promise<void> {
    const roomMib = this.settings.memoryMib - this.view.reservedMib();
    const makingMib = this.making?.memoryMib ?? 0;
    if (this.keptMib() + makingMib > roomMib) this.making?.abort.abort();
    while (this.kept.length > 0 && this.keptMib() > roomMib) void this.dropOne(this.kept[0]);
    const { making } = this;
    await Promise.all([
      ...this.ending,
      ...(making?.abort.signal.aborted === true ? [making.ended] : []),
    ]);
  }

  /** Keeps as many as are to be kept, until the signal ends; then none. */
  async run(signal: AbortSignal): Promise<void> {
    if (this.settings.max === 0) return;
    let waitMs = LOOK_EVERY_MS;
    while (await wait(waitMs, signal)) {
      waitMs = LOOK_EVERY_MS;
      await this.look(signal).catch((error: unknown) => {
        waitMs = RETRY_MS;
        this.deps.log.warn({ reason: messageOf(error) }, "a VM could not be kept warm");
      });
    }
    this.isClosed = true;
    while (this.kept.length > 0) await this.dropOne(this.kept[0]);
  }

  private async look(signal: AbortSignal): Promise<void> {
    const ended: WarmVm[] = [];
    for (const warm of this.kept) if (!(await this.deps.driver.isAlive(warm.vm))) ended.push(warm);
    for (const warm of ended) await this.dropOne(warm);
    const kinds = await this.kinds();
    const targets = warmTargets(kinds, {
      max: this.settings.max,
      unreservedMib: this.settings.memoryMib - this.view.reservedMib(),
      availableMib: await availableMemoryMib(),
      isOpen: this.view.isOpen(),
    });
    for (const { imageSha256, kept } of kinds) {
      const target = targets.get(imageSha256) ?? 0;
      const surplus = this.kept.filter((warm) => warm.imageSha256 === imageSha256);
      for (const warm of surplus.slice(0, kept - target)) await this.dropOne(warm);
      if (kept < target && this.isIdle()) return await this.add(imageSha256, signal);
    }
  }

  private async kinds(): Promise<WarmKind[]> {
    const since = Date.now() - DEMAND_KEPT_MS;
    const kinds: WarmKind[] = [];
    const known = new Set([...this.creates.keys(), ...this.kept.map((warm) => warm.imageSha256)]);
    for (const imageSha256 of known) {
      const times = (this.creates.get(imageSha256) ?? []).filter((at) => at > since);
      const kept = this.kept.filter((warm) => warm.imageSha256 === imageSha256);
      if (times.length === 0) this.creates.delete(imageSha256);
      const golden = await this.goldenOf(imageSha256);
      const memoryMib = kept[0]?.vm.memoryMib ?? golden?.golden.manifest.memoryMib;
      if (memoryMib === undefined) continue;
      const recentCreates = golden === undefined ? 0 : times.length;
      kinds.push({ imageSha256, memoryMib, kept: kept.length, recentCreates });
    }
    return kinds;
  }

  private async goldenOf(imageSha256: string) {
    const image = await findImage(this.deps.imagesDir, imageSha256);
    const golden = image === undefined ? undefined : await findGolden(image, this.deps.driver);
    return image === undefined || golden === undefined ? undefined : { image, golden };
  }

  private async add(imageSha256: string, signal: AbortSignal): Promise<void> {
    const found = await this.goldenOf(imageSha256);
    if (found === undefined) return;
    const abort = new AbortController();
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    this.making = { memoryMib: found.golden.manifest.memoryMib, abort, ended };
    try {
      const either = AbortSignal.any([signal, abort.signal]);
      const warm = await makeWarm(this.deps, found.image, found.golden, either);
      if (either.aborted || this.isClosed) await dropWarm(this.deps.driver, warm.vm);
      else this.kept.push(warm);
    } catch (error) {
      if (!signal.aborted && !abort.signal.aborted) throw error;
    } finally {
      this.making = undefined;
      resolve();
    }
  }

  private noteCreate({ imageSha256 }: SandboxSpec): void {
    const times = [...(this.creates.get(imageSha256) ?? []), Date.now()].slice(-this.settings.max);
    this.creates.set(imageSha256, times);
  }

  private keptMib(): number {
    return this.kept.reduce((sum, { vm }) => sum + vm.memoryMib, 0);
  }

  private async dropOne(warm: WarmVm | undefined): Promise<void> {
    const at = warm === undefined ? -1 : this.kept.indexOf(warm);
    if (warm === undefined || at < 0) return;
    this.kept.splice(at, 1);
    const reported = dropWarm(this.deps.driver, warm.vm).catch((err: unknown) =>
      this.deps.log.warn({ err, name: warm.vm.sandboxId }, "a warm VM could not be ended"),
    );
    this.ending.add(reported);
    await reported;
    this.ending.delete(reported);
  }
}
