/** vm.boot: what it needs, and what a failed boot leaves. */
import assert from "node:assert/strict";
import { existsSync, linkSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { apiCase, type Case, expectError, expectStatus, vmCase } from "../support/stage.ts";

export const LOCKED = "Failed to get Write lock for disk image";
export const VSOCK_LEFT = ["Error binding to the host-side Unix socket", "Address already in use"];

export const bootCases: Case[] = [
  apiCase("1.2", "vm.create opens no disk; vm.boot without a kernel is a 500", async (stage) => {
    const vmm = await stage.empty();
    expectStatus(
      await vmm.put("vm.create", {
        disks: [{ path: "no-such-disk", image_type: "Raw" }],
        console: { mode: "Off" },
      }),
      204,
    );
    expectError(await vmm.put("vm.boot"), 500, "Payload configuration is not bootable");
    assert.equal(await vmm.state(), "Created");
  }),
  vmCase(
    "1.2",
    "without the kernel file vm.boot is a 500 and the VM object stays: only vm.delete helps",
    async (stage) => {
      const vmm = await stage.created();
      rmSync(join(vmm.dir, "kernel"));
      expectError(
        await vmm.put("vm.boot"),
        500,
        "Cannot open kernel file",
        "No such file or directory",
      );
      assert.equal(await vmm.state(), "Created");
      expectError(await vmm.put("vm.boot"), 500, "VM is already created");
    },
  ),
  vmCase("1.2", "without the initramfs file vm.boot is a 500, each time", async (stage) => {
    const vmm = await stage.created();
    rmSync(join(vmm.dir, "initrd"));
    expectError(
      await vmm.put("vm.boot"),
      500,
      "Cannot open initramfs file",
      "No such file or directory",
    );
    expectError(await vmm.put("vm.boot"), 500, "Cannot open initramfs file");
    assert.equal(await vmm.state(), "Created");
  }),
  vmCase(
    "1.2",
    "a disk file missing at vm.boot is a 500; a second vm.boot boots without any disk: a failed boot must not be repeated",
    async (stage) => {
      const vmm = await stage.created();
      rmSync(join(vmm.dir, "disk.raw"));
      expectError(
        await vmm.put("vm.boot"),
        500,
        "Cannot open disk path",
        "No such file or directory",
      );
      expectStatus(await vmm.put("vm.boot"), 204);
      const { config } = (await vmm.get("vm.info")).json as { config: object };
      assert.ok(!("disks" in config));
    },
  ),
  vmCase(
    "11.3",
    "vm.boot with the vsock socket file left over is a 500; a second vm.boot boots without a vsock",
    async (stage) => {
      const vmm = await stage.created();
      writeFileSync(join(vmm.dir, "vsock.sock"), "");
      expectError(await vmm.put("vm.boot"), 500, ...VSOCK_LEFT);
      unlinkSync(join(vmm.dir, "vsock.sock"));
      expectStatus(await vmm.put("vm.boot"), 204);
      const { config } = (await vmm.get("vm.info")).json as { config: object };
      assert.ok(!("vsock" in config) && !existsSync(join(vmm.dir, "vsock.sock")));
    },
  ),
  vmCase(
    "11.3",
    "a second VM on the same disk file is a 500, and its process must be told vm.delete before it can boot",
    async (stage) => {
      const holder = await stage.running("holder");
      const second = await stage.created("second");
      unlinkSync(join(second.dir, "disk.raw"));
      linkSync(join(holder.dir, "disk.raw"), join(second.dir, "disk.raw"));
      expectError(await second.put("vm.boot"), 500, LOCKED, "already locked");
      expectError(await second.put("vm.boot"), 500, "VM is already created");
      const { config } = (await second.get("vm.info")).json as { config: unknown };
      holder.signal("SIGKILL");
      await holder.exit();
      expectStatus(await second.put("vm.delete"), 204);
      expectStatus(await second.put("vm.create", config), 204);
      expectStatus(await second.put("vm.boot"), 204);
    },
  ),
  vmCase("3.9", "a disk that is readonly in both is shared by two VMs", async (stage) => {
    const disks = [{ id: "disk", path: "disk.raw", readonly: true, image_type: "Raw" }];
    const first = await stage.running("first", { disks });
    const second = await stage.created("second", { disks });
    unlinkSync(join(second.dir, "disk.raw"));
    linkSync(join(first.dir, "disk.raw"), join(second.dir, "disk.raw"));
    expectStatus(await second.put("vm.boot"), 204);
  }),
];
