/** The process: its sockets, its lock, how it ends and what it prints. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { apiCase, type Case, expectStatus, RESTORE, vmCase } from "../support/stage.ts";

const HELD_MS = 1_000;

export const processCases: Case[] = [
  apiCase("2.1", "--version prints one line that says v53.0", async ({ target }) => {
    const [line = ""] = execFileSync(target.bin, ["--version"], { encoding: "utf8" }).split("\n");
    assert.match(line, /^cloud-hypervisor v53\.0/);
  }),
  apiCase(
    "2.1",
    "sockets and files are its user's alone; the lock file is beside the socket",
    async (stage) => {
      const vmm = await stage.empty();
      for (const name of ["api.sock", "api.sock.lock", "events.json", "vmm.log"])
        assert.equal(statSync(join(vmm.dir, name)).mode & 0o077, 0, name);
    },
  ),
  apiCase("11.3", "an API socket that a killed one left is replaced", async (stage) => {
    const killed = await stage.empty();
    killed.signal("SIGKILL");
    assert.equal((await killed.exit()).signal, "SIGKILL");
    assert.ok(existsSync(killed.socketPath));
    const next = await stage.empty();
    assert.notEqual(next.child.pid, killed.child.pid);
  }),
  apiCase(
    "11.3",
    "a second one on a socket in use ends with 1 and says so; the first does not notice",
    async (stage) => {
      const first = await stage.empty();
      const second = stage.start("a");
      assert.equal((await second.exit()).code, 1);
      assert.match(second.stderr, /is already in use by another running instance/);
      expectStatus(await first.get("vmm.ping"), 200);
    },
  ),
  apiCase(
    "1.2",
    "vmm.shutdown is a 200, then the process ends with 0 and its socket is gone; the lock file stays",
    async (stage) => {
      const vmm = await stage.empty();
      expectStatus(await vmm.put("vmm.shutdown"), 200);
      assert.deepEqual(await vmm.exit(), { code: 0, signal: null });
      assert.ok(!existsSync(vmm.socketPath) && existsSync(`${vmm.socketPath}.lock`));
    },
  ),
  apiCase("11.4", "SIGTERM and SIGINT without a VM: exit 0, socket removed", async (stage) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      const vmm = await stage.empty(signal);
      vmm.signal(signal);
      assert.deepEqual(await vmm.exit(), { code: 0, signal: null });
      assert.ok(!existsSync(vmm.socketPath) && existsSync(`${vmm.socketPath}.lock`));
    }
  }),
  apiCase("11.4", "SIGSTOP: a call is not answered; after SIGCONT it is", async (stage) => {
    const vmm = await stage.empty();
    vmm.signal("SIGSTOP");
    let isAnswered = false;
    const ping = vmm.get("vmm.ping").then((answer) => {
      isAnswered = true;
      return answer;
    });
    await sleep(HELD_MS);
    assert.equal(isAnswered, false);
    vmm.signal("SIGCONT");
    expectStatus(await ping, 200);
  }),
  vmCase(
    "11.4",
    "SIGTERM with a VM, running or paused: exit 0, both sockets removed",
    async (stage) => {
      for (const vmm of [await stage.running("running"), await stage.paused("paused")]) {
        vmm.signal("SIGTERM");
        assert.deepEqual(await vmm.exit(), { code: 0, signal: null });
        assert.ok(!existsSync(vmm.socketPath) && !existsSync(join(vmm.dir, "vsock.sock")));
        assert.deepEqual(vmm.events().slice(-3), ["vm shutdown", "vm deleted", "vmm shutdown"]);
      }
    },
  ),
  vmCase("11.4", "SIGKILL with a VM: both sockets stay", async (stage) => {
    const vmm = await stage.running();
    vmm.signal("SIGKILL");
    assert.equal((await vmm.exit()).signal, "SIGKILL");
    assert.ok(existsSync(vmm.socketPath) && existsSync(join(vmm.dir, "vsock.sock")));
  }),
  vmCase("4", "vm.shutdown removes the vsock socket, vm.pause does not", async (stage) => {
    const vmm = await stage.paused();
    assert.ok(existsSync(join(vmm.dir, "vsock.sock")));
    expectStatus(await vmm.put("vm.shutdown"), 204);
    assert.ok(!existsSync(join(vmm.dir, "vsock.sock")));
  }),
  vmCase(
    "11.4",
    "the event stream: boot, pause, snapshot, shutdown, each an object and an empty line",
    async (stage) => {
      const vmm = await stage.paused();
      expectStatus(await vmm.put("vm.snapshot", { destination_url: "file://snap" }), 204);
      expectStatus(await vmm.put("vm.resume"), 204);
      expectStatus(await vmm.put("vm.delete"), 204);
      const booted = [
        "vmm starting",
        "vm booting",
        "vm booted",
        "vm pausing",
        "vm paused",
        "vm snapshotting",
        "vm snapshotted",
      ];
      assert.deepEqual(vmm.events(), [
        ...booted,
        "vm resuming",
        "vm resumed",
        "vm shutdown",
        "vm deleted",
      ]);
    },
  ),
  vmCase("11.4", "the event stream of a restore and a resume", async (stage) => {
    const vmm = await stage.restorable();
    expectStatus(await vmm.put("vm.restore", RESTORE), 204);
    expectStatus(await vmm.put("vm.resume"), 204);
    assert.deepEqual(vmm.events(), [
      "vmm starting",
      "vm restoring",
      "vm restored",
      "vm resuming",
      "vm resumed",
    ]);
  }),
];
