/**
 * Capacity that a sandbox reserves on its hosts, and what a change of its row claims and gives
 * back.
 */
import type { HostId } from "@torpor/contracts";
import type { Sandbox } from "./rows.ts";

interface Amounts {
  vcpu: number;
  memoryMib: number;
  diskMib: number;
}
export type Claim = Amounts & { hostId: HostId };

/** Columns that determine the holdings. */
export type Held = Amounts & Pick<Sandbox, "state" | "hostId" | "originHostId" | "holdsMemory">;

export function holdings(sandbox: Held): Claim[] {
  const { state, hostId, originHostId, holdsMemory, vcpu, memoryMib, diskMib } = sandbox;
  if (state === "deleted") return [];
  const disk = { vcpu: 0, memoryMib: 0, diskMib };
  return [
    ...(hostId === null ? [] : [{ ...disk, hostId, ...(holdsMemory ? { vcpu, memoryMib } : {}) }]),
    ...(originHostId === null ? [] : [{ ...disk, hostId: originHostId }]),
  ];
}

/** Differences per host. Hosts without a difference are left out. */
export function claimsBetween(before: Held, after: Held): Claim[] {
  const claims = new Map<HostId, Claim>();
  const add = ({ hostId, vcpu, memoryMib, diskMib }: Claim, sign: 1 | -1) => {
    const claim = claims.get(hostId) ?? { hostId, vcpu: 0, memoryMib: 0, diskMib: 0 };
    claim.vcpu += sign * vcpu;
    claim.memoryMib += sign * memoryMib;
    claim.diskMib += sign * diskMib;
    claims.set(hostId, claim);
  };
  for (const holding of holdings(before)) add(holding, -1);
  for (const holding of holdings(after)) add(holding, 1);
  const isChange = ({ vcpu, memoryMib, diskMib }: Claim) =>
    vcpu !== 0 || memoryMib !== 0 || diskMib !== 0;
  return [...claims.values()].filter(isChange);
}
