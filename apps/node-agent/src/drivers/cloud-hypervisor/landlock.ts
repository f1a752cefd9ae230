/**
 * Checks if the kernel can restrict Cloud Hypervisor to its VM's files. Version 53 requests the
 * right to truncate, which Landlock has since Linux 6.2, and refuses every VM without it (seen on
 * 6.1: "partially incompatible access-rights").
 */
import { readFile } from "node:fs/promises";
import { release } from "node:os";
import { isAtLeast } from "../../host/kernel-release.ts";

export const LANDLOCK_KERNEL = [6, 2] as const;

export async function landlockIsOn(
  modules = "/sys/kernel/security/lsm",
  kernel = release(),
): Promise<boolean> {
  if (!isAtLeast(kernel, LANDLOCK_KERNEL)) return false;
  const enabled = await readFile(modules, "utf8").catch(() => "");
  return enabled.trim().split(",").includes("landlock");
}
