/**
 * Where one case plays: a fresh directory, the VMMs that it starts, and the ways into the states
 * that cases begin in.
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
  /** Of the real one; the fake boots anything. */
  kernel?: string;
  initrd?: string;
  /**
   * Where something in the guest listens on the vsock; of the real one once its root file system is
   * up.
   */
  guestPort?: number;
  /**
   * The image that the real one's kernel and initrd belong to, for cases that need the guest's own
   * programs.
   */
  guest?: { rootfs: string; cmdline: string; memoryBytes: number };
  guestBootLimitMs: number;
  /** Why no VM can be had of it: cases that need one are skipped for that reason. */
  noVm?: string;
  /** Only the fake's: what the real one does by its nature, at a moment that can be met. */
  setFaults?: (dir: string, faults: Fault[]) => Promise<void>;
}

export interface Case {
  name: string;
  source: string;
  needsVm: boolean;
  /** A text is the reason why it could not be tried. */
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
   * Kernel, initrd and disk in the directory, and the configuration that names them by relative
   * paths.
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

  /**
   * What a configuration needs beside `prepare` so that the guest comes up with all of its
   * programs.
   */
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
   * A snapshot in snap/ of a VM that is no more; its directory was moved, and an empty VMM works in
   * it.
   */
  async restorable(extra: Record<string, unknown> = {}): Promise<VmmProcess> {
    const first = await this.paused("a", extra);
    expectStatus(await first.put("vm.snapshot", SNAPSHOT), 204);
    expectStatus(await first.put("vmm.shutdown"), 200);
    await first.exit();
    await rename(first.dir, join(this.dir, "b"));
    return await this.empty("b");
  }

  /** A file system of that size at `<dir>/<name>`, or the reason why there is none. */
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

/** An error of the API: a status and a chain of messages with each of `texts` in it. */
export function expectError(answer: Answer, status: number, ...texts: string[]): void {
  expectStatus(answer, status);
  assert.ok(Array.isArray(answer.json), `no JSON array of messages: ${answer.text}`);
  const chain = (answer.json as string[]).join("\n");
  for (const text of texts) assert.ok(chain.includes(text), `"${text}" is not in: ${chain}`);
}
