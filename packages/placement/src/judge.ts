/**
 * Filter and score, host by host: which hosts can take the sandbox, why the others cannot, and
 * which host is the best.
 */
import type { PlacementHost } from "@torpor/db";
import {
  type Amounts,
  type FleetView,
  type Rejection,
  REJECTIONS,
  rejectTraits,
  restores,
  type Traits,
  verdictOf,
} from "./fleet.ts";

export interface PlacementRequest extends Amounts, Traits {
  /** Hosts that have a sandbox of the same anti-affinity key. */
  occupiedHostIds?: readonly PlacementHost["id"][] | undefined;
  /** The one host that can do it: only this host has the disk or the snapshot. */
  pinnedHostId?: PlacementHost["id"] | undefined;
  /**
   * The host that has the only copy of the snapshot, if others could fetch it from there. If no
   * other host takes the sandbox, it continues there, even when that host takes nothing new.
   */
  onlyHolderId?: PlacementHost["id"] | undefined;
  /**
   * The host that holds the disk and the snapshot: no transfer, no further disk space. The host
   * decides itself whether it can restore the snapshot, because it knows best what its own update
   * has changed. An anti-affinity key does not keep a sandbox off the host that it is on.
   */
  localHostId?: PlacementHost["id"] | undefined;
}

/**
 * Scoring of a host: `localBonus` for the host that holds the sandbox, plus a fit of 0 to 1, less
 * the cost of the starts before this one.
 */
const POLICIES = {
  /** The host that holds the sandbox whenever it has room, else the emptiest. */
  "local-first": { localBonus: 1, fit: "emptiest" },
  /** The emptiest host; the local host, unless another is emptier by a quarter. */
  spread: { localBonus: 0.25, fit: "emptiest" },
  /**
   * The fullest host that has room, so that others stay empty; the local host, unless another is
   * fuller by a quarter.
   */
  binpack: { localBonus: 0.25, fit: "fullest" },
} as const;
export type PlacementPolicy = keyof typeof POLICIES;
export const PLACEMENT_POLICIES = Object.keys(POLICIES) as PlacementPolicy[];
export const DEFAULT_PLACEMENT_POLICY = "local-first" satisfies PlacementPolicy;

export interface Judged {
  /** Hosts of the fleet, including lost hosts. */
  hosts: number;
  /** Hosts that cannot take the sandbox, each counted once. */
  reasons: Partial<Record<Rejection, number>>;
}

/**
 * Writes the score of each host to `fleet.scores`. `best` is the index of the highest score; -1
 * when no host can take the sandbox.
 */
export function judge(
  fleet: FleetView,
  request: PlacementRequest,
  policy: PlacementPolicy,
): Judged & { best: number } {
  const counts = new Uint32Array(APART + 1);
  counts[HOST_LOST] = fleet.lostHosts;
  const best =
    request.pinnedHostId === undefined
      ? judgeAll(fleet, request, policy, counts)
      : judgePinned(fleet, request, policy, counts);
  const reasons: Judged["reasons"] = {};
  for (let at = 0; at < REJECTIONS.length; at += 1) {
    const [reason, count = 0] = [REJECTIONS[at], counts[at + 1]];
    if (reason !== undefined && count > 0) reasons[reason] = count;
  }
  return { hosts: fleet.hosts.length + fleet.lostHosts, reasons, best };
}

/**
 * The loop that has to be fast: all that counts is a number in a column. The host that holds the
 * sandbox is judged separately.
 */
function judgeAll(
  fleet: FleetView,
  request: PlacementRequest,
  policy: PlacementPolicy,
  counts: Uint32Array,
): number {
  const { scores, waitCosts, vcpu, memory, disk } = fleet;
  const [freeVcpu, freeMemory, freeDisk] = [vcpu.free, memory.free, disk.free];
  const [perVcpu, perMemory, perDisk] = [vcpu.perUnit, memory.perUnit, disk.perUnit];
  const { vcpu: needsVcpu, memoryMib: needsMemory, diskMib: needsDisk } = request;
  const isEmptiest = POLICIES[policy].fit === "emptiest";
  const local = fleet.indexOf(request.localHostId);
  const verdicts = verdictsFor(fleet, request, local);
  let best = -1;
  let bestScore = REJECTED;
  for (let at = 0; at < scores.length; at += 1) {
    let verdict = verdicts[at] as number;
    let score = REJECTED;
    if (verdict === 0) {
      const leftVcpu = (freeVcpu[at] as number) - needsVcpu;
      const leftMemory = (freeMemory[at] as number) - needsMemory;
      const leftDisk = (freeDisk[at] as number) - needsDisk;
      if (leftVcpu < 0) verdict = LACKS_VCPU;
      else if (leftMemory < 0) verdict = LACKS_MEMORY;
      else if (leftDisk < 0 && needsDisk > 0) verdict = LACKS_DISK;
      else {
        const vcpuShare = leftVcpu * (perVcpu[at] as number);
        const memoryShare = leftMemory * (perMemory[at] as number);
        if (isEmptiest) score = least(vcpuShare, memoryShare, leftDisk * (perDisk[at] as number));
        else score = fullness(vcpuShare, memoryShare);
        score -= waitCosts[at] as number;
        if (score > bestScore) {
          best = at;
          bestScore = score;
        }
      }
    }
    counts[verdict] = (counts[verdict] as number) + 1;
    scores[at] = score;
  }
  const localScore = local === -1 ? REJECTED : judgeApart(fleet, local, request, policy, counts);
  return localScore !== REJECTED && localScore >= bestScore ? local : best;
}

/** Verdict per host, regardless of free capacity. `local` is marked to be judged separately. */
function verdictsFor(fleet: FleetView, request: PlacementRequest, local: number): Uint8Array {
  const { occupiedHostIds = [] } = request;
  const shared = fleet.judgeTraits(request);
  if (local === -1 && occupiedHostIds.length === 0) return shared;
  const verdicts = shared.slice();
  for (const id of occupiedHostIds) {
    const at = fleet.indexOf(id);
    if (verdicts[at] === 0) verdicts[at] = OCCUPIED;
  }
  if (local !== -1) verdicts[local] = APART;
  return verdicts;
}

/** Judges only the host that the sandbox is pinned to. */
function judgePinned(
  fleet: FleetView,
  request: PlacementRequest,
  policy: PlacementPolicy,
  counts: Uint32Array,
): number {
  const at = fleet.indexOf(request.pinnedHostId);
  fleet.scores.fill(REJECTED);
  counts[OTHER_HOST] = fleet.hosts.length - (at === -1 ? 0 : 1);
  return at !== -1 && judgeApart(fleet, at, request, policy, counts) !== REJECTED ? at : -1;
}

/**
 * Judges a host to which not all rules apply: the sandbox is pinned to it, or already there.
 * Returns its score.
 */
function judgeApart(
  fleet: FleetView,
  at: number,
  request: PlacementRequest,
  policy: PlacementPolicy,
  counts: Uint32Array,
): number {
  const host = fleet.hosts[at];
  if (host === undefined) throw new Error(`there is no host ${at}`);
  const isLocal = host.id === request.localHostId;
  const diskMib = isLocal ? 0 : request.diskMib;
  const isOccupied = !isLocal && request.occupiedHostIds?.includes(host.id) === true;
  const rejection = rejectTraits(host, request, {
    isLocal,
    isPinned: host.id === request.pinnedHostId,
  });
  const verdict =
    rejection !== undefined
      ? verdictOf(rejection)
      : isOccupied
        ? OCCUPIED
        : lacks(fleet, at, request, diskMib);
  counts[verdict] = (counts[verdict] ?? 0) + 1;
  const isHome = isLocal && restores(host, request);
  const score =
    verdict === 0 ? apartScore(fleet, at, { ...request, diskMib }, policy, isHome) : REJECTED;
  fleet.scores[at] = score;
  return score;
}

/** The score of a host that cannot take the sandbox. */
export const REJECTED = -1;
const HOST_LOST = verdictOf("host_lost");
const OTHER_HOST = verdictOf("other_host");
const OCCUPIED = verdictOf("anti_affinity");
const LACKS_VCPU = verdictOf("vcpu");
const LACKS_MEMORY = verdictOf("memory");
const LACKS_DISK = verdictOf("disk");
/** The host is judged separately (`judgeApart`). */
const APART = REJECTIONS.length + 1;

function lacks(
  { vcpu, memory, disk }: FleetView,
  at: number,
  request: Amounts,
  diskMib: number,
): number {
  if ((vcpu.free[at] ?? 0) < request.vcpu) return LACKS_VCPU;
  if ((memory.free[at] ?? 0) < request.memoryMib) return LACKS_MEMORY;
  // A sandbox that needs no further disk may be on a host with less than no disk left.
  return diskMib > 0 && (disk.free[at] ?? 0) < diskMib ? LACKS_DISK : 0;
}

function apartScore(
  { vcpu, memory, disk, waitCosts }: FleetView,
  at: number,
  needs: Amounts,
  policy: PlacementPolicy,
  isHome: boolean,
): number {
  const { localBonus, fit } = POLICIES[policy];
  const vcpuShare = ((vcpu.free[at] ?? 0) - needs.vcpu) * (vcpu.perUnit[at] ?? 0);
  const memoryShare = ((memory.free[at] ?? 0) - needs.memoryMib) * (memory.perUnit[at] ?? 0);
  const diskShare = ((disk.free[at] ?? 0) - needs.diskMib) * (disk.perUnit[at] ?? 0);
  const share =
    fit === "emptiest"
      ? least(vcpuShare, memoryShare, diskShare)
      : fullness(vcpuShare, memoryShare);
  if (!isHome) return share - (waitCosts[at] ?? 0);
  // A bonus of a whole host outweighs any wait: the sandbox waits at home instead of being
  // transferred.
  return localBonus + share - (localBonus >= 1 ? 0 : (waitCosts[at] ?? 0));
}

/**
 * The smallest share of a host's capacity that is left. The emptiest host is the one with the
 * largest minimum.
 */
function least(vcpu: number, memory: number, disk: number): number {
  const left = vcpu < memory ? vcpu : memory;
  return left < disk ? left : disk > 0 ? disk : 0;
}

function fullness(vcpu: number, memory: number): number {
  return 1 - (vcpu + memory) / 2;
}
