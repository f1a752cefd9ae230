/**
 * The control thread: configuration and VM of the process, and the effect of each call. A call that
 * is not allowed throws a VmError.
 */
import { accessSync, constants, writeFileSync } from "node:fs";
import {
  alreadyCreated,
  configMissing,
  notCreated,
  notRunning,
  VmError,
  withContext,
} from "./errors.ts";
import type { Faults } from "./faults.ts";
import type { Reports } from "./reports.ts";
import { openSnapshot, writeSnapshot } from "./snapshot.ts";
import { checkBootable, type FakeVmConfig, withDefaults } from "./vm-config.ts";
import { FakeVm } from "./vm.ts";

export interface RestoreConfig {
  source_url: string;
  resume?: boolean;
}

export class Vmm {
  private config: FakeVmConfig | undefined;
  private vm: FakeVm | undefined;
  private readonly reports: Reports;
  private readonly faults: Faults;
  private readonly onPowerOff: () => void;

  constructor(reports: Reports, faults: Faults, onPowerOff: () => void) {
    this.reports = reports;
    this.faults = faults;
    this.onPowerOff = onPowerOff;
  }

  create(given: unknown): void {
    if (this.config !== undefined) throw alreadyCreated();
    this.config = withDefaults(given);
    openSerial(this.config);
  }

  async boot(): Promise<void> {
    this.reports.event("vm", "booting");
    if (this.config === undefined) throw configMissing();
    checkBootable(this.config);
    if (this.vm !== undefined) throw alreadyCreated();
    openSerial(this.config);
    this.vm = await FakeVm.open(this.config, this.onPowerOff);
    // From here on, a failure leaves the VM object behind, in state Created.
    this.vm.lockDisks();
    openKernel(this.config);
    this.vm.boot(this.faults.take("slow-boot")?.ms ?? 0);
    this.reports.event("vm", "booted");
  }

  info(): unknown {
    if (this.config === undefined) throw notCreated();
    const facts = {
      config: this.config,
      state: this.vm?.state ?? "Created",
      memory_actual_size: this.config.memory.size,
    };
    return this.vm === undefined ? facts : { ...facts, device_tree: {} };
  }

  counters(): unknown {
    const { config } = this.current();
    const zeros = { read_bytes: 0, write_bytes: 0, read_ops: 0, write_ops: 0 };
    return Object.fromEntries((config.disks ?? []).map(({ id }) => [id, zeros]));
  }

  pause(): void {
    const vm = this.current();
    this.reports.event("vm", "pausing");
    vm.move("Paused", "pause");
    this.reports.event("vm", "paused");
  }

  resume(): void {
    const vm = this.current();
    this.reports.event("vm", "resuming");
    vm.move("Running", "resume");
    this.reports.event("vm", "resumed");
  }

  async snapshot(url: string): Promise<void> {
    const vm = this.current();
    this.reports.event("vm", "snapshotting");
    if (vm.state !== "Paused")
      throw new VmError([
        "Cannot snapshot VM",
        "Failed to snapshot migratable component",
        "Trying to snapshot while VM is running",
      ]);
    this.reports.event("vm", "snapshotted");
    await writeSnapshot(vm, url, this.faults);
  }

  /** After a failure nothing is left, and the process can be used again. */
  async restore({ source_url: url, resume = false }: RestoreConfig): Promise<void> {
    if (this.config !== undefined) throw alreadyCreated();
    const snapshot = openSnapshot(url);
    this.config = snapshot.config;
    try {
      openSerial(this.config);
      const memory = snapshot.readMemory();
      this.vm = await FakeVm.open(this.config, this.onPowerOff);
      this.vm.lockDisks();
      this.vm.loadMemory(memory);
    } catch (error) {
      this.vm?.close();
      this.vm = undefined;
      this.delete();
      throw error;
    }
    this.vm.move("Paused", "pause");
    this.reports.event("vm", "restoring");
    this.reports.event("vm", "restored");
    if (resume) this.resume();
  }

  shutdown(): void {
    this.current().close();
    this.vm = undefined;
    this.reports.event("vm", "shutdown");
  }

  async reboot(): Promise<void> {
    this.reports.event("vm", "rebooting");
    const old = this.vm;
    if (old === undefined) throw notCreated();
    old.close();
    this.vm = undefined;
    openSerial(old.config);
    this.vm = await FakeVm.open(old.config, this.onPowerOff);
    this.vm.lockDisks();
    openKernel(old.config);
    this.vm.boot(this.faults.take("slow-boot")?.ms ?? 0);
    this.reports.event("vm", "rebooted");
  }

  delete(): void {
    if (this.config === undefined) return;
    if (this.vm !== undefined) this.shutdown();
    this.config = undefined;
    this.reports.event("vm", "deleted");
  }

  /** Calls that need a VM, and have no effect on the toy guest. */
  nudge(): void {
    this.current();
  }

  shutdownVmm(): void {
    this.delete();
    this.reports.event("vmm", "shutdown");
  }

  private current(): FakeVm {
    if (this.vm === undefined) throw notRunning();
    return this.vm;
  }
}

function openKernel({ payload }: FakeVmConfig): void {
  const path = payload?.kernel;
  if (path !== undefined)
    withContext(["Cannot open kernel file"], () => accessSync(path, constants.R_OK));
}

/** Truncates the serial line's file, at every boot and restore. */
function openSerial({ serial }: FakeVmConfig): void {
  const { file } = serial;
  if (serial.mode === "File" && file !== undefined)
    withContext(["Error creating console device", "Error creating serial output file"], () =>
      writeFileSync(file, ""),
    );
}
