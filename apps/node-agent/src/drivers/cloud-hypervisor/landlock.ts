/** Whether VMMs can be kept to their own files by the kernel (landlock). */
import { readFile } from "node:fs/promises";

const SECURITY_MODULES = "/sys/kernel/security/lsm";

export async function landlockIsOn(): Promise<boolean> {
  const modules = await readFile(SECURITY_MODULES, "utf8").catch(() => "");
  return modules.trim().split(",").includes("landlock");
}
