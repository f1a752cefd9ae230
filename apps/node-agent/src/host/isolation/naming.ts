/**
 * What this agent's things on the host are called. Several agents may share a machine: each makes,
 * finds and removes only what carries its own tag, and everything it makes can be found again by
 * its name, whatever happened to the process that made it.
 */
import { createHash } from "node:crypto";
import { resolve } from "node:path";

/** Of the directory that all of an agent's VMs live in. */
export function tagOf(dataDir: string): string {
  return createHash("sha256").update(resolve(dataDir)).digest("hex").slice(0, 6);
}

export const namespaceName = (tag: string, slot: number) => `torpor-${tag}-${slot}`;
/** At most 15 characters, the kernel's limit: slots are below 2^17. */
export const vethName = (tag: string, slot: number) => `tv${tag}${slot}`;
export const uplinkTableName = (tag: string) => `torpor_${tag}`;
export const cgroupName = (tag: string) => `torpor-${tag}`;
export const scopeName = (tag: string, name: string, run: string) =>
  `torpor-vm-${tag}-${name}-${run}.scope`;

/** Undefined for a name that is not this agent's. */
export function slotOf(tag: string, name: string): number | undefined {
  const digits = new RegExp(`^(?:torpor-${tag}-|tv${tag})(\\d{1,6})$`).exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

/** Interfaces of any agent's VMs. */
export const isVeth = (name: string) => /^tv[0-9a-f]{6}\d{1,6}$/.test(name);

/** Whether a cgroup, by its path, is that of one VM of any agent. */
export const isVmCgroup = (path: string) =>
  /\/torpor-vm-[0-9a-f]{6}-[^/]+\.scope$|\/torpor-[0-9a-f]{6}\/[^/]+$/.test(path);
