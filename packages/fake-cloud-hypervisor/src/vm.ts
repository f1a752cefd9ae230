/**
 * A VM object: what it has opened (disks with their locks, the vsock socket), its state and its toy
 * guest. `close` releases everything.
 */
import { accessSync, closeSync, constants, openSync } from "node:fs";
import { GUEST_AGENT_PORT } from "@torpor/contracts";
import { SimulatedGuest } from "@torpor/simulated-guest";
import { osError, VmError, withContext } from "./errors.ts";
import { tryLock } from "./locks.ts";
import { type DiskConfig, guestDisk, type FakeVmConfig } from "./vm-config.ts";
import { HybridVsock } from "./vsock.ts";

export type VmState = "Created" | "Running" | "Paused";

const ALLOWED: Record<VmState, VmState[]> = {
  Created: ["Running", "Paused"],
  Running: ["Paused"],
  Paused: ["Running"],
};

interface OpenDisk {
  config: DiskConfig;
  file: number;
}

export class FakeVm {
  readonly config: FakeVmConfig;
  state: VmState = "Created";
  private disks: OpenDisk[] = [];
  private vsock: HybridVsock | undefined;
  private readonly guest: SimulatedGuest;
  /** The RAM was damaged: the guest hangs, and its saved memory is zeros. */
  private isGuestLost = false;
  private upAtMs = 0;

  /**
   * Opens the devices of the configuration. Throws a VmError and leaves nothing open. The
   * configuration then lacks the devices that failed, as in v53.0.
   */
  static async open(config: FakeVmConfig, onPowerOff: () => void): Promise<FakeVm> {
    const initramfs = config.payload?.initramfs;
    if (initramfs !== undefined)
      withContext(["Cannot open initramfs file"], () => accessSync(initramfs, constants.R_OK));
    const vm = new FakeVm(config, openDisks(config), onPowerOff);
    try {
      if (config.vsock !== undefined)
        vm.vsock = await HybridVsock.listen(config.vsock.socket, vm.vsockGuest());
      return vm;
    } catch (error) {
      delete config.vsock;
      vm.close();
      throw error;
    }
  }

  private constructor(config: FakeVmConfig, disks: OpenDisk[], onPowerOff: () => void) {
    this.config = config;
    this.disks = disks;
    const own = guestDisk(config);
    // By descriptor: the guest keeps its disk if the file is moved, or replaced under its name.
    const file = disks.find((disk) => disk.config === own)?.file;
    this.guest = new SimulatedGuest({
      diskPath: file === undefined ? "/no-writable-disk" : `/proc/self/fd/${file}`,
      onPowerOff,
    });
  }

  /** Throws if another process holds one of the disks. */
  lockDisks(): void {
    for (const { config, file } of this.disks) {
      if (tryLock(file, config.readonly ? "shared" : "exclusive")) continue;
      const lock = `Failed to get ${config.readonly ? "Read" : "Write"} lock for disk image: ${config.path}`;
      const outer = [
        "Error locking disk images: Another instance likely holds a lock",
        "Cannot lock images of all block devices",
      ];
      throw new VmError([...outer, lock, "The file is already locked"]);
    }
  }

  boot(slowBootMs: number): void {
    this.upAtMs = performance.now() + slowBootMs;
    this.move("Running", "boot");
  }

  move(to: VmState, verb: "boot" | "pause" | "resume"): void {
    if (!ALLOWED[this.state].includes(to)) {
      const transition = `Invalid transition: InvalidStateTransition(${this.state}, ${to})`;
      throw new VmError([
        `Cannot ${verb} VM`,
        `Failed to ${verb} migratable component`,
        transition,
      ]);
    }
    this.state = to;
    if (to !== "Running") return this.guest.pause();
    this.guest.run();
    this.vsock?.run();
  }

  /** Undefined stands for zeros. */
  saveMemory(): Buffer | undefined {
    return this.isGuestLost ? undefined : this.guest.saveMemory();
  }

  loadMemory(image: Buffer | undefined): void {
    if (image === undefined) this.isGuestLost = true;
    else this.guest.loadMemory(image);
  }

  close(): void {
    this.guest.pause();
    this.vsock?.close();
    for (const { file } of this.disks) closeSync(file);
    this.disks = [];
  }

  private vsockGuest() {
    return {
      isUp: () => !this.isGuestLost && performance.now() >= this.upAtMs,
      isRunning: () => this.state === "Running",
      listensOn: (port: number) => port === GUEST_AGENT_PORT,
      accept: (socket: unknown) => void this.guest.server.emit("connection", socket),
    };
  }
}

function openDisks(config: FakeVmConfig): OpenDisk[] {
  const disks: OpenDisk[] = [];
  try {
    for (const disk of config.disks ?? []) disks.push({ config: disk, file: openDisk(disk) });
    return disks;
  } catch (error) {
    delete config.disks;
    for (const { file } of disks) closeSync(file);
    throw error;
  }
}

function openDisk(disk: DiskConfig): number {
  try {
    return openSync(disk.path, disk.readonly ? "r" : "r+");
  } catch (error) {
    throw new VmError([
      "Error from device manager",
      "Cannot open disk path",
      `I/O error (path=${disk.path} op=open)`,
      osError(error),
    ]);
  }
}
