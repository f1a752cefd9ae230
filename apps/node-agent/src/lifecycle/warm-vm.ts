/**
 * A VM that is kept warm: restored from a golden snapshot for nobody, in a directory of its own,
 * its vCPUs standing still.
 */
import { randomBytes } from "node:crypto";
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { SandboxSpec } from "@torpor/contracts";
import type { Driver, Vm } from "../drivers/driver.ts";
import { findLiveRun } from "../drivers/vmm-process.ts";
import { copySparsely } from "../host/files.ts";
import type { Image } from "../images.ts";
import type { LifecycleDeps } from "./context.ts";
import { linkImage } from "./disk.ts";
import { type Golden, hasSize } from "./golden.ts";
import { savedMemory } from "./snapshot.ts";

export interface WarmVm {
  vm: Vm;
  imageSha256: string;
  diskSizeBytes: number;
}

type Deps = Pick<LifecycleDeps, "store" | "driver" | "uid">;

const warmDir = (dataDir: string) => join(dataDir, "warm");

/** Throws when it cannot be made; nothing of it is left then. */
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

/** What an earlier process kept. None of it is anybody's, and no name of it is given again. */
export async function leftWarm(dataDir: string): Promise<Vm[]> {
  const names = await readdir(warmDir(dataDir)).catch(() => []);
  return names.map((name) => nobodys(dataDir, name));
}

/** What ends it asks for no more than its name. */
function nobodys(dataDir: string, name: string): Vm {
  const size = { vcpu: 1, memoryMib: 0, kernelCmdline: "" };
  return { dir: join(warmDir(dataDir), name), sandboxId: name, ...size, internetAccess: false };
}

/** Whether a create that asks for this begins as that VM has begun. */
export function fits(warm: WarmVm, { imageSha256, resources }: SandboxSpec): boolean {
  const { vm, diskSizeBytes } = warm;
  return warm.imageSha256 === imageSha256 && hasSize({ ...vm, diskSizeBytes }, resources);
}

/**
 * The fence lets a run go on that began under the lease that the host has: one of before stands
 * until somebody is asked.
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
