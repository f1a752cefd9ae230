/**
 * Which host shall run it? Pure: filter, score, pick. Every rejection is counted by reason, so that "no capacity" can say what was missing on how many hosts (S50).
 */
import type { HostRow } from "@torpor/db";

export interface PlacementRequest {
  vcpu: number;
  memoryMib: number;
  diskMib: number;
  imageSha256: string;
  region?: string | undefined;
  /** The one host that can do it: a stopped sandbox's disk, a snapshot that is nowhere else. */
  pinnedHostId?: string | undefined;
  /** The host that holds the disk and the snapshot: no transfer, no further disk space. Preferred. */
  localHostId?: string | undefined;
  /** A restore needs a host that can restore snapshots of this fingerprint. The host that holds the snapshot judges itself: it knows better what an update of it has changed. */
  driverFingerprint?: string | undefined;
  /** Its run has to be frozen when the host is lost. */
  needsFence?: boolean | undefined;
}

const REJECTIONS = [
  "other_host",
  "host_not_ready",
  "region",
  "image_missing",
  "no_fence",
  "fingerprint",
  "vcpu",
  "memory",
  "disk",
] as const;
type Rejection = (typeof REJECTIONS)[number];

export type Placement =
  | { kind: "placed"; host: HostRow; score: number }
  | { kind: "rejected"; hosts: number; reasons: Partial<Record<Rejection, number>>; message: string };

/** `hosts` are those with a running lease. */
export function place(hosts: readonly HostRow[], request: PlacementRequest): Placement {
  const reasons: Partial<Record<Rejection, number>> = {};
  let best: { host: HostRow; score: number } | undefined;
  for (const host of hosts) {
    const rejection = reject(host, request);
    if (rejection !== undefined) {
      reasons[rejection] = (reasons[rejection] ?? 0) + 1;
      continue;
    }
    const score = scoreOf(host, request);
    if (best === undefined || score > best.score) best = { host, score };
  }
  if (best !== undefined) return { kind: "placed", ...best };
  return { kind: "rejected", hosts: hosts.length, reasons, message: explain(hosts.length, reasons, request) };
}

function reject(host: HostRow, request: PlacementRequest): Rejection | undefined {
  const isLocal = host.id === request.localHostId;
  if (request.pinnedHostId !== undefined && host.id !== request.pinnedHostId) return "other_host";
  // A cordoned host takes nothing new, but what can run nowhere else may go on there.
  if (host.state !== "ready" && host.id !== request.pinnedHostId) return "host_not_ready";
  if (request.region !== undefined && host.region !== request.region) return "region";
  if (!host.imageSha256s.includes(request.imageSha256)) return "image_missing";
  if (request.needsFence === true && !host.hasFence) return "no_fence";
  if (!isLocal && !restores(host, request)) return "fingerprint";
  if (host.vcpuCapacity - host.vcpuUsed < request.vcpu) return "vcpu";
  if (host.memoryMibCapacity - host.memoryMibUsed < request.memoryMib) return "memory";
  if (!isLocal && host.diskMibCapacity - host.diskMibUsed < request.diskMib) return "disk";
  return undefined;
}

function restores(host: HostRow, { driverFingerprint }: PlacementRequest): boolean {
  return driverFingerprint === undefined || host.restorableFingerprints.includes(driverFingerprint);
}

/** Local first, if nothing speaks against it, then the emptiest: 1 for locality, plus the smaller of the free shares of memory and vCPUs after placing. */
function scoreOf(host: HostRow, request: PlacementRequest): number {
  const freeMemory = (host.memoryMibCapacity - host.memoryMibUsed - request.memoryMib) / host.memoryMibCapacity;
  const freeVcpu = (host.vcpuCapacity - host.vcpuUsed - request.vcpu) / host.vcpuCapacity;
  return (host.id === request.localHostId && restores(host, request) ? 1 : 0) + Math.min(freeMemory, freeVcpu);
}

const MISSING: Record<Rejection, (request: PlacementRequest) => string> = {
  other_host: (request) => `are not ${request.pinnedHostId}, which holds its disk`,
  host_not_ready: () => "are cordoned or draining",
  region: (request) => `are not in region ${request.region}`,
  image_missing: () => "do not have its image",
  no_fence: () => "run no fence (torpor-fence), without which on_host_loss cannot be restore",
  fingerprint: () => "have not the VMM or CPU that its snapshot needs",
  vcpu: (request) => `have fewer than ${request.vcpu} vCPU free`,
  memory: (request) => `have less than ${request.memoryMib} MiB of memory free`,
  disk: (request) => `have less than ${request.diskMib} MiB of disk free`,
};

function explain(hosts: number, reasons: Partial<Record<Rejection, number>>, request: PlacementRequest): string {
  if (hosts === 0) return "No host has a running lease.";
  const parts = REJECTIONS.flatMap((reason) => {
    const count = reasons[reason];
    return count === undefined ? [] : [`${count} ${MISSING[reason](request)}`];
  });
  return `None of ${hosts} host${hosts === 1 ? "" : "s"} can take it: ${parts.join("; ")}.`;
}
