/** Calls in the wrong state, and what vm.info reports afterwards. */
import assert from "node:assert/strict";
import {
  apiCase,
  type Case,
  expectError,
  expectStatus,
  RESTORE,
  SNAPSHOT,
  vmCase,
} from "../support/stage.ts";

const NEED_A_VM = ["vm.pause", "vm.resume", "vm.shutdown", "vm.power-button"];

export const stateCases: Case[] = [
  apiCase("11.4", "vm.info without a VM is a 404 with an array", async (stage) => {
    const vmm = await stage.empty();
    expectError(await vmm.get("vm.info"), 404, "VM is not created");
  }),
  apiCase("1.3", "vm.boot without a configuration is a 404", async (stage) => {
    const vmm = await stage.empty();
    expectError(await vmm.put("vm.boot"), 404, "VM config is missing");
  }),
  apiCase("1.3", "vm.reboot without a VM is a 404", async (stage) => {
    const vmm = await stage.empty();
    expectError(await vmm.put("vm.reboot"), 404, "VM is not created");
  }),
  apiCase(
    "11.4",
    "pause, resume, shutdown, power button, counters and snapshot without a VM are 500",
    async (stage) => {
      const vmm = await stage.empty();
      for (const call of NEED_A_VM) expectError(await vmm.put(call), 500, "VM is not running");
      expectError(await vmm.get("vm.counters"), 500, "VM is not running");
      expectError(await vmm.put("vm.snapshot", SNAPSHOT), 500, "VM is not running");
    },
  ),
  apiCase(
    "1.3",
    "the same with a VM that is created but not booted; reboot is a 404",
    async (stage) => {
      const vmm = await stage.created();
      for (const call of NEED_A_VM) expectError(await vmm.put(call), 500, "VM is not running");
      expectError(await vmm.put("vm.snapshot", SNAPSHOT), 500, "VM is not running");
      expectError(await vmm.put("vm.reboot"), 404, "VM is not created");
      assert.equal(await vmm.state(), "Created");
    },
  ),
  apiCase("1.3", "vm.create and vm.restore where a configuration is are 500", async (stage) => {
    const vmm = await stage.created();
    expectError(await vmm.put("vm.create", stage.prepare("other")), 500, "VM is already created");
    expectError(await vmm.put("vm.restore", RESTORE), 500, "VM is already created");
  }),
  apiCase(
    "1.3",
    "vm.delete is a 204, with and without a VM; then vm.info is a 404",
    async (stage) => {
      const vmm = await stage.created();
      expectStatus(await vmm.put("vm.delete"), 204);
      expectError(await vmm.get("vm.info"), 404, "VM is not created");
      expectStatus(await vmm.put("vm.delete"), 204);
    },
  ),
  apiCase(
    "1.2",
    "vm.info gives the configuration back, defaults filled in and unknown fields dropped without a word",
    async (stage) => {
      const vmm = await stage.created("a", {
        no_such_field: 1,
        vsock: { id: "vsock0", cid: 3, socket: "vsock.sock", sockett: "x" },
      });
      const { config } = (await vmm.get("vm.info")).json as { config: Record<string, unknown> };
      assert.deepEqual((config["memory"] as { size: number }).size, 256 * 1024 * 1024);
      assert.equal((config["payload"] as { kernel: string }).kernel, "kernel");
      const [disk] = config["disks"] as { id: string; path: string; readonly: boolean }[];
      assert.deepEqual([disk?.id, disk?.path, disk?.readonly], ["disk", "disk.raw", false]);
      assert.equal((config["vsock"] as { socket: string }).socket, "vsock.sock");
      assert.ok(
        !("no_such_field" in config) && !("sockett" in (config["vsock"] as object)),
        "an unknown field was kept",
      );
    },
  ),
  vmCase(
    "1.3",
    "vm.boot, vm.create and vm.restore of a VM that runs, and of one that is paused, are 500",
    async (stage) => {
      const vmm = await stage.running();
      const expectAllRefused = async () => {
        expectError(await vmm.put("vm.boot"), 500, "VM is already created");
        expectError(
          await vmm.put("vm.create", stage.prepare(`other-${await vmm.state()}`)),
          500,
          "VM is already created",
        );
        expectError(await vmm.put("vm.restore", RESTORE), 500, "VM is already created");
      };
      await expectAllRefused();
      expectStatus(await vmm.put("vm.pause"), 204);
      await expectAllRefused();
      assert.equal(await vmm.state(), "Paused");
    },
  ),
  vmCase("11.4", "vm.pause when paused is a 500 and leaves it paused", async (stage) => {
    const vmm = await stage.paused();
    expectError(
      await vmm.put("vm.pause"),
      500,
      "Invalid transition: InvalidStateTransition(Paused, Paused)",
    );
    assert.equal(await vmm.state(), "Paused");
  }),
  vmCase("11.4", "vm.resume when running is a 500 and leaves it running", async (stage) => {
    const vmm = await stage.running();
    expectError(
      await vmm.put("vm.resume"),
      500,
      "Invalid transition: InvalidStateTransition(Running, Running)",
    );
    assert.equal(await vmm.state(), "Running");
  }),
  vmCase(
    "11.4",
    "vm.shutdown leads back to Created and vm.boot works again, also out of Paused",
    async (stage) => {
      const vmm = await stage.running();
      expectStatus(await vmm.put("vm.shutdown"), 204);
      assert.equal(await vmm.state(), "Created");
      expectStatus(await vmm.put("vm.boot"), 204);
      expectStatus(await vmm.put("vm.pause"), 204);
      expectStatus(await vmm.put("vm.shutdown"), 204);
      assert.equal(await vmm.state(), "Created");
    },
  ),
  vmCase(
    "1.2",
    "vm.reboot and vm.power-button of a running VM are 204; vm.counters names its disk",
    async (stage) => {
      const vmm = await stage.running();
      expectStatus(await vmm.put("vm.reboot"), 204);
      assert.equal(await vmm.state(), "Running");
      assert.deepEqual(
        vmm.events().filter((event) => event.startsWith("vm reboot")),
        ["vm rebooting", "vm rebooted"],
      );
      const counters = await vmm.get("vm.counters");
      expectStatus(counters, 200);
      assert.ok("disk" in (counters.json as object));
      expectStatus(await vmm.put("vm.power-button"), 204);
    },
  ),
  vmCase(
    "11.4",
    "vm.delete ends a VM that runs: vm.info is a 404 and the same can be created again",
    async (stage) => {
      const vmm = await stage.running();
      expectStatus(await vmm.put("vm.delete"), 204);
      expectError(await vmm.get("vm.info"), 404, "VM is not created");
      expectStatus(
        await vmm.put("vm.create", { payload: { kernel: "kernel" }, console: { mode: "Off" } }),
        204,
      );
    },
  ),
];
