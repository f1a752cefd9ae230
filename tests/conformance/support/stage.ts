/**
 * The stage of one case: a fresh directory, the VMMs that the case starts, and the ways into the
 * states in which cases begin.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { mkdtemp, rename } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Fault } from "@torpor/fake-cloud-hypervisor";
import { type Answer, VmmProcess } from "./vmm.ts";

const DISK_BYTES = 16 * 1024 * 1024;
export const RAM_BYTES = 256 * 1024 * 1024;
export const SNAPSHOT = { destination_url: "file://snap" };
export const RESTORE = { source_url: "file://snap" };

export interface StageTarget {
  bin: string;
  /** Kernel of the real VMM; the fake boots anything. */
  kernel?: string;
  initrd?: string;
  /** vsock port with a listener in the guest; in a real guest once its root file system is up. */
  guestPort?: number;
  /** Image with the real VMM's kernel and initrd, for cases that need the guest's own programs. */
  guest?: { rootfs: string; cmdline: string; memoryBytes: number };
  guestBootLimitMs: number;
  /** Why no VM can run: cases that need a VM are skipped for that reason. */
  noVm?: string;
  /** Only for the fake: causes at a known moment what the real VMM does by its nature. */
  setFaults?: (dir: string, faults: Fault[]) => Promise<void>;
}

export interface Case {
  name: string;
  source: string;
  needsVm: boolean;
  /** Returns a string with the reason when the case cannot be tried. */
  run: (stage: Stage) => Promise<string | void>;
}

export const apiCase = (source: string, name: string, run: Case["run"]): Case => ({
  source,
  name,
  needsVm: false,
  run,
});
export const vmCase = (source: string, name: string, run: Case["run"]): Case => ({
  source,
  name,
  needsVm: true,
  run,
});

export class Stage {
  readonly target: StageTarget;
  readonly dir: string;
  private readonly vmms: VmmProcess[] = [];
  private readonly mounts: string[] = [];

  static async open(target: StageTarget): Promise<Stage> {
    return new Stage(target, await mkdtemp(join(tmpdir(), "ch-")));
  }

  private constructor(target: StageTarget, dir: string) {
    this.target = target;
    this.dir = dir;
  }

  async close(): Promise<void> {
    for (const vmm of this.vmms) {
      vmm.signal("SIGKILL");
      await vmm.exit();
    }
    for (const path of this.mounts) execFileSync("umount", [path]);
    rmSync(this.dir, { recursive: true, force: true });
  }

  /** A VMM in `<dir>/<name>`, up but without a VM. */
  async empty(name = "a"): Promise<VmmProcess> {
    return await this.start(name).untilReady();
  }

  start(name: string): VmmProcess {
    const dir = join(this.dir, name);
    mkdirSync(dir, { recursive: true });
    const vmm = new VmmProcess({ bin: this.target.bin, dir });
    this.vmms.push(vmm);
    return vmm;
  }

  /**
   * Writes kernel, initrd and disk into the directory. Returns the configuration, which names the
   * files by relative paths.
   */
  prepare(name: string, extra: Record<string, unknown> = {}): Record<string, unknown> {
    const dir = join(this.dir, name);
    mkdirSync(dir, { recursive: true });
    for (const file of ["kernel", "initrd"] as const) {
      const source = this.target[file];
      if (source === undefined) writeFileSync(join(dir, file), file);
      else symlinkSync(source, join(dir, file));
    }
    writeFileSync(join(dir, "disk.raw"), "");
    truncateSync(join(dir, "disk.raw"), DISK_BYTES);
    return {
      payload: { kernel: "kernel", initramfs: "initrd", cmdline: "console=ttyS0" },
      cpus: { boot_vcpus: 1, max_vcpus: 1 },
      memory: { size: RAM_BYTES, shared: true },
      disks: [{ id: "disk", path: "disk.raw", image_type: "Raw" }],
      vsock: { id: "vsock0", cid: 3, socket: "vsock.sock" },
      serial: { mode: "File", file: "serial.log" },
      console: { mode: "Off" },
      ...extra,
    };
  }

  /** Configuration, besides that of `prepare`, with which the guest starts all of its programs. */
  wholeGuest(): Record<string, unknown> {
    const { guest } = this.target;
    if (guest === undefined) return {};
    return {
      payload: { kernel: "kernel", initramfs: "initrd", cmdline: guest.cmdline },
      memory: { size: guest.memoryBytes, shared: true },
      disks: [
        { id: "root", path: guest.rootfs, image_type: "Raw", readonly: true },
        { id: "disk", path: "disk.raw", image_type: "Raw" },
      ],
    };
  }

  async created(name = "a", extra: Record<string, unknown> = {}): Promise<VmmProcess> {
    const config = this.prepare(name, extra);
    const vmm = await this.empty(name);
    expectStatus(await vmm.put("vm.create", config), 204);
    return vmm;
  }

  async running(name = "a", extra: Record<string, unknown> = {}): Promise<VmmProcess> {
    const vmm = await this.created(name, extra);
    expectStatus(await vmm.put("vm.boot"), 204);
    return vmm;
  }

  async paused(name = "a", extra: Record<string, unknown> = {}): Promise<VmmProcess> {
    const vmm = await this.running(name, extra);
    expectStatus(await vmm.put("vm.pause"), 204);
    mkdirSync(join(vmm.dir, "snap"));
    return vmm;
  }

  /**
   * Returns an empty VMM in the moved directory of a VM that has ended, with the VM's snapshot in
   * snap/.
   */
  async restorable(extra: Record<string, unknown> = {}): Promise<VmmProcess> {
    const first = await this.paused("a", extra);
    expectStatus(await first.put("vm.snapshot", SNAPSHOT), 204);
    expectStatus(await first.put("vmm.shutdown"), 200);
    await first.exit();
    await rename(first.dir, join(this.dir, "b"));
    return await this.empty("b");
  }

  /** Mounts a file system of that size at `<dir>/<name>`. Returns why that is impossible. */
  mountSmall(name: string, bytes: number): string | undefined {
    const path = join(this.dir, name);
    mkdirSync(path, { recursive: true });
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", path], {
        stdio: "ignore",
      });
    } catch {
      return "nothing can be mounted here, so there is no file system to fill";
    }
    this.mounts.push(path);
    return undefined;
  }
}

export function expectStatus(answer: Answer, status: number): void {
  assert.equal(
    answer.status,
    status,
    `status ${answer.status} instead of ${status}: ${answer.text}`,
  );
}

/** Expects an error of the API: this status, and messages that contain each of `texts`. */
export function expectError(answer: Answer, status: number, ...texts: string[]): void {
  expectStatus(answer, status);
  assert.ok(Array.isArray(answer.json), `no JSON array of messages: ${answer.text}`);
  const chain = (answer.json as string[]).join("\n");
  for (const text of texts) assert.ok(chain.includes(text), `"${text}" is not in: ${chain}`);
}
