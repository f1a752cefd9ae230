/**
 * Whether the kernel can keep Cloud Hypervisor to its VM's files. Version 53 asks for the right to truncate, which landlock has since Linux 6.2, and refuses every VM where it is
 * missing (seen on 6.1: "partially incompatible access-rights").
 */
import { readFile } from "node:fs/promises";
import { release } from "node:os";

const MINIMUM = [6, 2] as const;

export async function landlockIsOn(modules = "/sys/kernel/security/lsm", kernel = release()): Promise<boolean> {
  const [major = 0, minor = 0] = kernel.split(".").map(Number);
  if (major < MINIMUM[0] || (major === MINIMUM[0] && minor < MINIMUM[1])) return false;
  const enabled = await readFile(modules, "utf8").catch(() => "");
  return enabled.trim().split(",").includes("landlock");
}
