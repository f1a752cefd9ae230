/**
 * A cgroup (v2) per VM, where systemd does not make one (scopes.ts): for limits, where the
 * controllers exist, and to freeze the VM, which is always possible.
 */
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Vm } from "../../drivers/driver.ts";
import { isNotFound } from "../files.ts";
import { cgroupName, isVmCgroup } from "./naming.ts";

/** Threads and processes of a VMM, at most. */
export const MAX_TASKS = 512;
const CPU_PERIOD_US = 100_000;
const REMOVE_LIMIT_MS = 3_000;
const FREEZE_LIMIT_MS = 5_000;

/** Mount point of cgroup v2, with or without v1; undefined if it is not mounted. */
export async function findCgroupMount(): Promise<string | undefined> {
  const mounts = (await readFile("/proc/self/mounts", "utf8"))
    .split("\n")
    .map((line) => line.split(" "));
  return mounts.find(([, , type]) => type === "cgroup2")?.[1];
}

/** Limits of a VM; `memoryMib` is all the memory that its VMM may take. */
export interface Limited extends Pick<Vm, "memoryMib" | "vcpu"> {
  /** Name of the VM on the host. */
  name: string;
}

export class Cgroups {
  private readonly mount: string;
  private readonly base: string;

  constructor(mount: string, tag: string) {
    this.mount = mount;
    this.base = join(mount, cgroupName(tag));
  }

  /** Makes and removes one cgroup. Throws the reason if the agent cannot make any. */
  async tryOne(): Promise<void> {
    await this.make({ name: "probe", memoryMib: 1, vcpu: 1 });
    await this.remove("probe");
  }

  private pathOf(name: string): string {
    return join(this.base, name);
  }

  /** Makes the VM's cgroup, empty, with its limits. */
  async make(vm: Limited): Promise<string> {
    await mkdir(this.base, { recursive: true });
    for (const parent of [this.mount, this.base]) await delegateControllers(parent);
    const path = this.pathOf(vm.name);
    await mkdir(path, { recursive: true });
    await writeFile(join(path, "cgroup.freeze"), "0");
    await limit(path, "memory.max", String(vm.memoryMib * 1024 ** 2));
    await limit(path, "cpu.max", `${vm.vcpu * CPU_PERIOD_US} ${CPU_PERIOD_US}`);
    await limit(path, "pids.max", String(MAX_TASKS));
    return path;
  }

  /** Removes the VM's cgroup. Can be repeated. Throws if a process is in it. */
  async remove(name: string): Promise<void> {
    await removeEmpty(this.pathOf(name), REMOVE_LIMIT_MS);
  }

  /** Names of the VMs that have a cgroup. */
  async list(): Promise<string[]> {
    const entries = await readdir(this.base, { withFileTypes: true }).catch(() => []);
    return entries.flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  }

  /** Removes the parent of all cgroups, if it is empty. */
  async close(): Promise<void> {
    if ((await this.list()).length === 0) await removeEmpty(this.base, REMOVE_LIMIT_MS);
  }
}

/**
 * Delegates memory, cpu and pids, where this level has them. A level that cannot delegate (hybrid
 * hierarchies, or a level with processes) leaves VMs without that limit.
 */
async function delegateControllers(path: string): Promise<void> {
  const there = (await readFile(join(path, "cgroup.controllers"), "utf8")).trim().split(" ");
  for (const controller of ["memory", "cpu", "pids"].filter((name) => there.includes(name)))
    await writeFile(join(path, "cgroup.subtree_control"), `+${controller}`).catch(() => {});
}

async function limit(path: string, file: string, value: string): Promise<void> {
  await writeFile(join(path, file), value, { flag: "r+" }).catch((error: unknown) => {
    if (!isNotFound(error)) throw error;
  });
}

/** Retries: the kernel keeps a cgroup for a moment after its last process has ended. */
async function removeEmpty(path: string, limitMs: number): Promise<void> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    try {
      await rmdir(path);
      return;
    } catch (error) {
      if (isNotFound(error)) return;
      if ((error as NodeJS.ErrnoException).code !== "EBUSY" || performance.now() >= deadline)
        throw new Error(
          `the cgroup ${path} cannot be removed: see what runs in it (cgroup.procs)`,
          { cause: error },
        );
    }
    await sleep(10);
  }
}

/** Freezes or thaws everything in the cgroup, and returns once that is done. */
export async function setFrozen(cgroup: string, wanted: boolean): Promise<void> {
  await writeFile(join(cgroup, "cgroup.freeze"), wanted ? "1" : "0");
  const deadline = performance.now() + FREEZE_LIMIT_MS;
  while ((await isFrozen(cgroup)) !== wanted) {
    if (performance.now() > deadline)
      throw new Error(
        `${basename(dirname(cgroup))}/${basename(cgroup)} could not be ${wanted ? "frozen" : "thawed"} within ${FREEZE_LIMIT_MS} ms`,
      );
    await sleep(5);
  }
}

export async function isFrozen(cgroup: string): Promise<boolean> {
  return /^frozen 1$/m.test(await readFile(join(cgroup, "cgroup.events"), "utf8"));
}

/** Cgroup of the VM whose VMM the process is; undefined if the process is in no VM's cgroup. */
export async function findVmCgroup(pid: number): Promise<string | undefined> {
  const mount = await findCgroupMount();
  const path = await cgroupPathOf(pid);
  return mount === undefined || !isVmCgroup(path) ? undefined : join(mount, path);
}

async function cgroupPathOf(pid: number): Promise<string> {
  const line = (await readFile(`/proc/${pid}/cgroup`, "utf8"))
    .split("\n")
    .find((entry) => entry.startsWith("0::"));
  return line?.slice("0::".length) ?? "";
}
