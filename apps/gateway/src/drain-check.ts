/** Has everything on a host somewhere to go? Asked before a drain begins: which hosts could take it at all, whatever is free on them now. Pure. */
import type { HostRow, PlacementHost, SandboxNeed } from "@torpor/db";

const LACKS = ["region", "image", "fingerprint", "size"] as const;
type Lack = (typeof LACKS)[number];

export interface Stranded {
  sandboxes: number;
  image_sha256: string;
  region: string;
  /** Number of other ready hosts that lack it. */
  missing: Partial<Record<Lack, number>>;
  message: string;
}

/** The needs that no other host meets. `others`: hosts with a running lease. */
export function strandedBy(host: HostRow, needs: SandboxNeed[], others: readonly PlacementHost[]): Stranded[] {
  const ready = others.filter(({ id, state }) => id !== host.id && state === "ready");
  return needs.flatMap((need) => {
    const lacks = ready.map((other) => lackOf(other, need, host));
    if (lacks.includes(undefined)) return [];
    const missing: Stranded["missing"] = {};
    for (const lack of lacks) if (lack !== undefined) missing[lack] = (missing[lack] ?? 0) + 1;
    return [
      { sandboxes: need.count, image_sha256: need.imageSha256, region: need.region, missing, message: explain(need, ready, missing) },
    ];
  });
}

function lackOf(other: PlacementHost, need: SandboxNeed, host: HostRow): Lack | undefined {
  if (other.region !== need.region) return "region";
  if (!other.imageSha256s.includes(need.imageSha256)) return "image";
  // What runs is resumed from a snapshot that this host will write.
  if (need.runs && !other.restorableFingerprints.includes(host.driverFingerprint)) return "fingerprint";
  const fits = other.vcpuCapacity >= need.vcpu && other.memoryMibCapacity >= need.memoryMib && other.diskMibCapacity >= need.diskMib;
  return fits ? undefined : "size";
}

const MISSING: Record<Lack, (need: SandboxNeed) => string> = {
  region: (need) => `not in region ${need.region}`,
  image: (need) => `without image ${need.imageSha256.slice(0, 12)}`,
  fingerprint: () => "with a VMM or CPU that cannot restore this host's snapshots",
  size: (need) => `smaller than ${need.vcpu} vCPU, ${need.memoryMib} MiB of memory and ${need.diskMib} MiB of disk`,
};

function explain(need: SandboxNeed, ready: readonly PlacementHost[], missing: Stranded["missing"]): string {
  const what = `${need.count} ${need.count === 1 ? "sandbox has" : "sandboxes have"} nowhere to go`;
  if (ready.length === 0) return `${what}: there is no other ready host.`;
  const parts = LACKS.flatMap((lack) => (missing[lack] === undefined ? [] : [`${missing[lack]} ${MISSING[lack](need)}`]));
  return `${what}: of ${ready.length} other ready host${ready.length === 1 ? "" : "s"}, ${parts.join(", ")}.`;
}
