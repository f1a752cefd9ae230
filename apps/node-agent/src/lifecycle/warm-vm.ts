/**
 * A warm VM: restored from a golden snapshot for no sandbox yet, in its own directory, with paused
 * vCPUs.
 */
import { randomBytes } from "node:crypto";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { SandboxSpec } from "@torpor/contracts";
import type { Driver, Vm } from "../drivers/driver.ts";
import { findLiveRun } from "../drivers/vmm-process.ts";
import { copySparsely } from "../host/files.ts";
import type { Image } from "../images/images.ts";
import { type Golden, hasSize } from "../images/golden.ts";
import type { LifecycleDeps } from "./context.ts";
import { linkImage } from "./disk.ts";
import { savedMemory } from "./manifest.ts";

export interface WarmVm {
  vm: Vm;
  imageSha256: string;
  diskSizeBytes: number;
}

type Deps = Pick<LifecycleDeps, "store" | "driver" | "uid">;

const warmDir = (dataDir: string) => join(dataDir, "warm");

/** Makes a warm VM. Throws if that fails; nothing is left then. */
export async function makeWarm(
  deps: Deps,
  image: Image,
  { dir, manifest }: Golden,
  signal: AbortSignal,
): Promise<WarmVm> {
  const name = `warm-${randomBytes(8).toString("hex")}`;
  const { vcpu, memoryMib, diskSizeBytes } = manifest;
  const vm: Vm = {
    ...nobodys(deps.store.dataDir, name),
    vcpu,
    memoryMib,
    kernelCmdline: image.kernelCmdline,
  };
  try {
    await mkdir(warmDir(deps.store.dataDir), { recursive: true });
    await linkImage(deps, image, vm.dir, (path) =>
      copySparsely(join(dir, "disk.raw"), path, signal),
    );
    const restored = await deps.driver.restore(vm, dir, savedMemory(manifest), signal);
    if (restored.kind === "refused") throw new Error(restored.reason);
    return { vm, imageSha256: image.sha256, diskSizeBytes };
  } catch (error) {
    await dropWarm(deps.driver, vm);
    throw error;
  }
}

export async function dropWarm(driver: Pick<Driver, "end">, vm: Vm): Promise<void> {
  await driver.end(vm, { graceMs: 0 });
  await rm(vm.dir, { recursive: true, force: true });
}

/**
 * Warm VMs that an earlier process left. They belong to no sandbox, and their names are not reused.
 */
export async function leftWarm(dataDir: string): Promise<Vm[]> {
  const names = await readdir(warmDir(dataDir)).catch(() => []);
  return names.map((name) => nobodys(dataDir, name));
}

/** A warm VM by its name, which is enough to end it. */
function nobodys(dataDir: string, name: string): Vm {
  const size = { vcpu: 1, memoryMib: 0, kernelCmdline: "" };
  return { dir: join(warmDir(dataDir), name), sandboxId: name, ...size, internetAccess: false };
}

/** True if the VM has the image and the sizes of the create. */
export function fits(warm: WarmVm, { imageSha256, resources }: SandboxSpec): boolean {
  const { vm, diskSizeBytes } = warm;
  return warm.imageSha256 === imageSha256 && hasSize({ ...vm, diskSizeBytes }, resources);
}

/**
 * True if the fence lets the VM run. A run that began under the current lease may continue; an
 * older one stays frozen until it is permitted.
 */
export async function isGuardable(
  { fence }: Pick<LifecycleDeps, "fence">,
  vm: Vm,
  { onHostLoss }: SandboxSpec,
): Promise<boolean> {
  if (onHostLoss !== "restore") return true;
  const run = await findLiveRun(vm);
  return run !== undefined && fence.covers(run);
}
