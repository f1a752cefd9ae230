/** vm.restore: what it accepts, what it refuses, and what it does not notice. */
import assert from "node:assert/strict";
import {
  existsSync,
  linkSync,
  readFileSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { cp } from "node:fs/promises";
import { release } from "node:os";
import { join } from "node:path";
import {
  type Case,
  expectError,
  expectStatus,
  RAM_BYTES,
  RESTORE,
  SNAPSHOT,
  type Stage,
  vmCase,
} from "../support/stage.ts";
import type { VmmProcess } from "../support/vmm.ts";
import { LOCKED, VSOCK_LEFT } from "./boot.ts";

const LANDLOCK = { landlock_enable: true, landlock_rules: [{ path: ".", access: "rw" }] };

/**
 * Why this kernel lacks what version 53 needs of landlock, or undefined. The right to truncate came
 * with Linux 6.2.
 */
function landlockRefusal(): string | undefined {
  const modules = "/sys/kernel/security/lsm";
  if (!existsSync(modules) || !readFileSync(modules, "utf8").includes("landlock"))
    return "this kernel has no landlock";
  const [major = 0, minor = 0] = release().split(".", 2).map(Number);
  return major > 6 || (major === 6 && minor >= 2)
    ? undefined
    : `landlock as version 53 asks for it needs Linux 6.2, this is ${release()}`;
}

/**
 * A restore after `damage` to the directory is a 500, and the process is empty; after `repair` the
 * same process restores.
 */
function refused(
  name: string,
  reasons: string[],
  damage: (dir: string) => void,
  repair: (dir: string) => void,
): Case {
  return vmCase(
    "11.3",
    `${name} is a 500; the process is empty again and can be used again`,
    async (stage) => {
      const vmm = await stage.restorable();
      damage(vmm.dir);
      expectError(await vmm.put("vm.restore", RESTORE), 500, ...reasons);
      expectError(await vmm.get("vm.info"), 404, "VM is not created");
      repair(vmm.dir);
      expectStatus(await vmm.put("vm.restore", RESTORE), 204);
      assert.equal(await vmm.state(), "Paused");
    },
  );
}

/** A restore after `change` to the directory works all the same. */
function taken(name: string, change: (dir: string) => void): Case {
  return vmCase("11.3", `${name}: 204, paused`, async (stage) => {
    const vmm = await stage.restorable();
    change(vmm.dir);
    expectStatus(await vmm.put("vm.restore", RESTORE), 204);
    assert.equal(await vmm.state(), "Paused");
  });
}

function cut(name: string, reason: string): Case {
  let whole: Buffer = Buffer.alloc(0);
  const damage = (dir: string) => {
    whole = readFileSync(join(dir, "snap", name));
    truncateSync(join(dir, "snap", name), Math.floor(whole.length / 2));
  };
  return refused(`a ${name} that is cut`, [reason], damage, (dir) =>
    writeFileSync(join(dir, "snap", name), whole),
  );
}

async function secondIn(stage: Stage, holder: VmmProcess): Promise<VmmProcess> {
  const second = await stage.empty("second");
  for (const file of ["kernel", "initrd", "snap"])
    await cp(join(holder.dir, file), join(second.dir, file), { recursive: true });
  linkSync(join(holder.dir, "disk.raw"), join(second.dir, "disk.raw"));
  return second;
}

export const restoreCases: Case[] = [
  vmCase(
    "11.3",
    "a snapshot whose directory was moved restores by relative paths: paused, then it runs",
    async (stage) => {
      const vmm = await stage.restorable();
      expectStatus(
        await vmm.put("vm.restore", { ...RESTORE, memory_restore_mode: "Copy", resume: false }),
        204,
      );
      assert.equal(await vmm.state(), "Paused");
      expectStatus(await vmm.put("vm.resume"), 204);
      assert.equal(await vmm.state(), "Running");
    },
  ),
  vmCase("11.3", "resume:true lets it run at once", async (stage) => {
    const vmm = await stage.restorable();
    expectStatus(await vmm.put("vm.restore", { ...RESTORE, resume: true }), 204);
    assert.equal(await vmm.state(), "Running");
  }),
  vmCase("11.3", "a second restore is a 500", async (stage) => {
    const vmm = await stage.restorable();
    expectStatus(await vmm.put("vm.restore", RESTORE), 204);
    expectError(await vmm.put("vm.restore", RESTORE), 500, "VM is already created");
    assert.equal(await vmm.state(), "Paused");
  }),
  taken("memory-ranges cut to half", (dir) =>
    truncateSync(join(dir, "snap/memory-ranges"), RAM_BYTES / 2),
  ),
  taken("memory-ranges cut to nothing", (dir) => truncateSync(join(dir, "snap/memory-ranges"), 0)),
  taken("a disk file that is smaller than at the snapshot", (dir) =>
    truncateSync(join(dir, "disk.raw"), 1024 * 1024),
  ),
  taken("a missing kernel file", (dir) => rmSync(join(dir, "kernel"))),
  refused(
    "a missing memory-ranges",
    ["Error opening snapshot file", "No such file or directory"],
    (dir) => rmSync(join(dir, "snap/memory-ranges")),
    (dir) => {
      writeFileSync(join(dir, "snap/memory-ranges"), "");
      truncateSync(join(dir, "snap/memory-ranges"), RAM_BYTES);
    },
  ),
  cut("state.json", "Error deserialising VM state snapshot"),
  cut("config.json", "Error deserialising VM config snapshot"),
  refused(
    "a missing disk file",
    ["Cannot open disk path", "No such file or directory"],
    (dir) => rmSync(join(dir, "disk.raw")),
    (dir) => {
      writeFileSync(join(dir, "disk.raw"), "");
      truncateSync(join(dir, "disk.raw"), 16 * 1024 * 1024);
    },
  ),
  refused(
    "a vsock socket file left over",
    VSOCK_LEFT,
    (dir) => writeFileSync(join(dir, "vsock.sock"), ""),
    (dir) => unlinkSync(join(dir, "vsock.sock")),
  ),
  vmCase(
    "11.3",
    "a missing initramfs file is a 500, other than a missing kernel",
    async (stage) => {
      const vmm = await stage.restorable();
      rmSync(join(vmm.dir, "initrd"));
      expectError(await vmm.put("vm.restore", RESTORE), 500, "Cannot open initramfs file");
      expectError(await vmm.get("vm.info"), 404, "VM is not created");
    },
  ),
  vmCase("11.3", "a missing snapshot directory is a 500", async (stage) => {
    const vmm = await stage.empty();
    expectError(await vmm.put("vm.restore", RESTORE), 500, "Destination is not a directory");
    expectError(await vmm.get("vm.info"), 404);
  }),
  vmCase(
    "11.3",
    "on a disk that another process has it is a 500; when that one is killed, it works",
    async (stage) => {
      const holder = await stage.paused("holder");
      expectStatus(await holder.put("vm.snapshot", SNAPSHOT), 204);
      const second = await secondIn(stage, holder);
      expectError(await second.put("vm.restore", RESTORE), 500, LOCKED, "already locked");
      expectError(await second.get("vm.info"), 404);
      holder.signal("SIGKILL");
      await holder.exit();
      expectStatus(await second.put("vm.restore", RESTORE), 204);
    },
  ),
  vmCase(
    "11.3",
    "create, boot, snapshot and restore work with landlock and relative paths",
    async (stage) => {
      const refusal = stage.target.setFaults === undefined ? landlockRefusal() : undefined;
      if (refusal !== undefined) return refusal;
      const vmm = await stage.restorable(LANDLOCK);
      expectStatus(await vmm.put("vm.restore", RESTORE), 204);
      expectStatus(await vmm.put("vm.resume"), 204);
      return undefined;
    },
  ),
];
