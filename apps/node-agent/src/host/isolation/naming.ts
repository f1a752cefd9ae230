/**
 * Names of this agent's objects on the host. Several agents may share a machine: each makes, finds
 * and removes only objects with its own tag. An object is found again by its name, whatever
 * happened to the process that made it.
 */
import { createHash } from "node:crypto";
import { resolve } from "node:path";

/** Tag of an agent, from the directory of its VMs. */
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

/** Slot number in a name; undefined if the name is not this agent's. */
export function slotOf(tag: string, name: string): number | undefined {
  const digits = new RegExp(`^(?:torpor-${tag}-|tv${tag})(\\d{1,6})$`).exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

/** True for interfaces of any agent's VMs. */
export const isVeth = (name: string) => /^tv[0-9a-f]{6}\d{1,6}$/.test(name);

/** True if the path is the cgroup of one VM of any agent. */
export const isVmCgroup = (path: string) =>
  /\/torpor-vm-[0-9a-f]{6}-[^/]+\.scope$|\/torpor-[0-9a-f]{6}\/[^/]+$/.test(path);
