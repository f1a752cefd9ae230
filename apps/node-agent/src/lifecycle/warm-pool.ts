/**
 * VMs that are kept warm for future creates (docs/operate/hosts.md, decision 41).
 *
 * WP1  A warm VM is taken once: out of this process's list first, then by the rename of its
 *      directory to the sandbox's. Before the rename the VM belongs to no sandbox, whatever its
 *      directory holds; an agent that starts ends all such VMs.
 * WP2  Only the process that took a warm VM uses it: after a crash the create starts over, as any
 *      other does.
 * WP3  The pool has only memory that no sandbox has reserved, and gives way before a sandbox begins
 *      to run.
 * WP4  No warm VM has run an instruction since its snapshot: it gets its identity as any other
 *      restored guest does.
 */
import { rename } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { messageOf, sleep } from "@torpor/service";
import type { SandboxId, SandboxSpec } from "@torpor/contracts";
import type { Vm } from "../drivers/driver.ts";
import { moveVmm } from "../drivers/vmm-process.ts";
import { durableStep } from "../host/durable-step.ts";
import { fsyncPath, sizeOf, writeDurably } from "../host/files.ts";
import { availableMemoryMib } from "../host/memory.ts";
import { findImage, type Image } from "../images/images.ts";
import { findGolden, type Golden, hasSize } from "../images/golden.ts";
import type { LifecycleDeps } from "./context.ts";
import type { Observed } from "./observation.ts";
import { type WarmKind, warmTargets } from "./warm-target.ts";
import { dropWarm, fits, isGuardable, leftWarm, makeWarm, type WarmVm } from "./warm-vm.ts";

export interface WarmSettings {
  /** VMs that are kept, at most; 0: none. */
  max: number;
  /** Memory that this host offers to sandboxes. */
  memoryMib: number;
}

/** State of the host that the pool depends on. */
export interface WarmView {
  /** Memory of the sandboxes that run here, or are about to run. */
  reservedMib(): number;
  /** True if no run is beginning, and none waits to begin. */
  isIdle(): boolean;
  /** True if new sandboxes may come to this host. */
  isOpen(): boolean;
}

/** A kind with its image and golden snapshot; undefined: they are gone. */
type FoundKind = WarmKind & { source: { image: Image; golden: Golden } | undefined };

const LOOK_EVERY_MS = 500;
const DEMAND_KEPT_MS = 10 * 60_000;
/** Sleep after a VM could not be made. */
const RETRY_MS = 10_000;

export class WarmPool {
  private readonly deps: LifecycleDeps;
  private readonly settings: WarmSettings;
  private readonly view: WarmView;
  private readonly kept: WarmVm[] = [];
  /** Sandboxes with a taken VM that is not used yet. */
  private readonly taken = new Set<SandboxId>();
  /** Times of the newest creates, by image. */
  private readonly creates = new Map<string, number[]>();
  private making: { memoryMib: number; abort: AbortController; ended: Promise<void> } | undefined;
  /** VMs that are being ended: their memory is not free yet. */
  private readonly ending = new Set<Promise<boolean>>();
  private isClosed = false;

  constructor(deps: LifecycleDeps, settings: WarmSettings, view: WarmView) {
    this.deps = deps;
    this.settings = settings;
    this.view = view;
  }

  get size(): number {
    return this.kept.length;
  }

  /** Ends the VMs that a crash left (WP1), and returns them without waiting. */
  async open(): Promise<Vm[]> {
    const left = await leftWarm(this.deps.store.dataDir);
    for (const vm of left) void this.end(vm);
    return left;
  }

  /**
   * Makes the sandbox's directory from that of a matching warm VM, if there is one. Until the
   * create is journalled, only the memory counts as the sandbox's.
   */
  async take(entry: Pick<Observed, "record">): Promise<void> {
    const { spec } = entry.record;
    if (this.settings.max === 0 || this.taken.has(spec.sandboxId)) return;
    const at = this.kept.findIndex((warm) => fits(warm, spec));
    const [warm] = at < 0 ? [] : this.kept.splice(at, 1);
    try {
      if (warm !== undefined || (await this.isOfKind(spec))) this.noteCreate(spec);
      if (warm === undefined) return;
      if (await isGuardable(this.deps, warm.vm, spec)) await this.hand(warm, entry);
      else void this.end(warm.vm);
    } catch (error) {
      const reason = messageOf(error);
      this.deps.log.warn({ sandboxId: spec.sandboxId, reason }, "warm VM could not be taken");
      // After the rename the VM is the sandbox's, whose create ends it.
      if (warm === undefined || (await sizeOf(warm.vm.dir)) === undefined) return;
      void this.end(warm.vm);
    }
  }

  /** Ends the VM that was taken for a create that was not journalled. */
  async undo(entry: Pick<Observed, "record">): Promise<void> {
    const { hostName: _ofWarm, ...own } = entry.record;
    if (!this.taken.delete(own.spec.sandboxId)) return;
    // Else the name is kept, so that the next attempt finds the VM.
    if (await this.end(this.deps.store.vmOf(entry.record))) entry.record = own;
  }

  private async hand({ vm }: WarmVm, entry: Pick<Observed, "record">): Promise<void> {
    const { store } = this.deps;
    const { record } = entry;
    const to = store.dirOf(record.spec.sandboxId);
    const hostName = basename(vm.dir);
    const named = { ...record, hostName };
    await writeDurably(join(vm.dir, "vm.json"), JSON.stringify(named));
    await durableStep("take warm vm", async () => {
      await rename(vm.dir, to);
      entry.record = named;
      moveVmm(vm.dir, to);
      await fsyncPath(dirname(to));
    });
    this.taken.add(record.spec.sandboxId);
  }

  /** True, once, if this process took a VM for the sandbox (WP2). */
  uses(sandboxId: SandboxId): boolean {
    return this.taken.delete(sandboxId);
  }

  /**
   * Frees memory for a run. Called once the run has its memory reserved, and before it begins
   * (WP3).
   */
  async giveWay(): Promise<void> {
    const roomMib = this.unreservedMib();
    const makingMib = this.making?.memoryMib ?? 0;
    if (this.keptMib() + makingMib > roomMib) this.making?.abort.abort();
    while (this.kept.length > 0 && this.keptMib() > roomMib) void this.drop(this.kept.slice(0, 1));
    const { making } = this;
    if (making?.abort.signal.aborted === true) await making.ended;
    await this.ended();
  }

  /** Resolves when the VMs that are being ended have ended. */
  async ended(): Promise<void> {
    await Promise.all(this.ending);
  }

  /** Keeps the target number of VMs warm until the signal aborts; then ends all. */
  async run(signal: AbortSignal): Promise<void> {
    if (this.settings.max === 0) return;
    let waitMs = LOOK_EVERY_MS;
    while (await sleep(waitMs, signal)) {
      waitMs = LOOK_EVERY_MS;
      await this.look(signal).catch((error: unknown) => {
        waitMs = RETRY_MS;
        this.deps.log.warn({ reason: messageOf(error) }, "VM could not be kept warm");
      });
    }
    this.isClosed = true;
    // All at once, because the agent has little time to end.
    await Promise.all(this.kept.splice(0).map(({ vm }) => this.end(vm)));
  }

  private async look(signal: AbortSignal): Promise<void> {
    const ended: WarmVm[] = [];
    for (const warm of this.kept) if (!(await this.deps.driver.isAlive(warm.vm))) ended.push(warm);
    await this.drop(ended);
    const kinds = await this.kinds();
    const availableMib = await availableMemoryMib();
    const targets = warmTargets(kinds, {
      max: this.settings.max,
      unreservedMib: this.unreservedMib(),
      availableMib,
      isOpen: this.view.isOpen(),
    });
    for (const { imageSha256, source } of kinds) {
      const target = targets.get(imageSha256) ?? 0;
      const alike = this.kept.filter((warm) => warm.imageSha256 === imageSha256);
      await this.drop(alike.slice(0, Math.max(0, alike.length - target)));
      if (alike.length >= target || source === undefined) continue;
      // Checked again, because a run may have begun meanwhile. `add` sets `making` without an await
      // in between.
      if (this.mayMake(source.golden)) return await this.add(source, signal);
    }
  }

  private mayMake({ manifest }: Golden): boolean {
    const isIdle = this.ending.size === 0 && this.view.isIdle();
    return isIdle && this.keptMib() + manifest.memoryMib <= this.unreservedMib();
  }

  private async kinds(): Promise<FoundKind[]> {
    const since = Date.now() - DEMAND_KEPT_MS;
    const kinds: FoundKind[] = [];
    const known = new Set([...this.creates.keys(), ...this.kept.map((warm) => warm.imageSha256)]);
    for (const imageSha256 of known) {
      const times = (this.creates.get(imageSha256) ?? []).filter((at) => at > since);
      const kept = this.kept.filter((warm) => warm.imageSha256 === imageSha256);
      if (times.length === 0) this.creates.delete(imageSha256);
      const source = await this.sourceOf(imageSha256);
      const memoryMib = kept[0]?.vm.memoryMib ?? source?.golden.manifest.memoryMib;
      if (memoryMib === undefined) continue;
      const recentCreates = source === undefined ? 0 : times.length;
      kinds.push({ imageSha256, memoryMib, kept: kept.length, recentCreates, source });
    }
    return kinds;
  }

  private async sourceOf(imageSha256: string): Promise<FoundKind["source"]> {
    const image = await findImage(this.deps.imagesDir, imageSha256);
    const golden = image === undefined ? undefined : await findGolden(image, this.deps.driver);
    return image === undefined || golden === undefined ? undefined : { image, golden };
  }

  /** True if a warm VM could have served the create. */
  private async isOfKind({ imageSha256, resources }: SandboxSpec): Promise<boolean> {
    const source = await this.sourceOf(imageSha256);
    return source !== undefined && hasSize(source.golden.manifest, resources);
  }

  private async add(
    { image, golden }: NonNullable<FoundKind["source"]>,
    signal: AbortSignal,
  ): Promise<void> {
    const abort = new AbortController();
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    this.making = { memoryMib: golden.manifest.memoryMib, abort, ended };
    try {
      const either = AbortSignal.any([signal, abort.signal]);
      const warm = await makeWarm(this.deps, image, golden, either);
      if (either.aborted || this.isClosed) await this.end(warm.vm);
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

  private unreservedMib(): number {
    return this.settings.memoryMib - this.view.reservedMib();
  }

  /** Ends the VMs that were not taken meanwhile. */
  private async drop(some: readonly WarmVm[]): Promise<void> {
    const dropped = some.filter((warm) => this.kept.includes(warm));
    for (const warm of dropped) this.kept.splice(this.kept.indexOf(warm), 1);
    await Promise.all(dropped.map(({ vm }) => this.end(vm)));
  }

  /**
   * Ends a VM. False: that failed, and the next agent tries again. A run that needs the memory
   * waits for this.
   */
  private async end(vm: Vm): Promise<boolean> {
    const ended = dropWarm(this.deps.driver, vm).then(
      () => true,
      (err: unknown) => {
        this.deps.log.warn({ err, name: basename(vm.dir) }, "warm VM could not be ended");
        return false;
      },
    );
    this.ending.add(ended);
    const hasEnded = await ended;
    this.ending.delete(ended);
    return hasEnded;
  }
}
