/**
 * Chooses the host that runs a sandbox. Pure: filter, score, pick. Every decision judges every
 * host, so that the choice is the best one and every rejection is counted by its reason: "no
 * capacity" lists what was missing on how many hosts (S50).
 */
import type { PlacementHost } from "@torpor/db";
import { type FleetView, type Rejection, REJECTIONS, type Traits } from "./fleet.ts";
import {
  judge,
  type Judged,
  type PlacementPolicy,
  type PlacementRequest,
  REJECTED,
} from "./judge.ts";

export {
  DEFAULT_PLACEMENT_POLICY,
  PLACEMENT_POLICIES,
  type PlacementPolicy,
  type PlacementRequest,
} from "./judge.ts";

export type Placement = Judged &
  ({ kind: "placed"; host: PlacementHost; score: number } | { kind: "rejected"; message: string });

export function place(
  fleet: FleetView,
  request: PlacementRequest,
  policy: PlacementPolicy,
): Placement {
  const { best, asked, ...judged } = decide(fleet, request, policy);
  const host = fleet.hosts[best];
  if (host !== undefined)
    return { kind: "placed", host, score: fleet.scores[best] ?? 0, ...judged };
  return { kind: "rejected", ...judged, message: explain(judged, asked) };
}

/** `asked`: the request that was judged last, which the rejections are about. */
function decide(
  fleet: FleetView,
  request: PlacementRequest,
  policy: PlacementPolicy,
): ReturnType<typeof judge> & { asked: PlacementRequest } {
  const anywhere = judge(fleet, request, policy);
  if (anywhere.best !== -1 || request.onlyHolderId === undefined)
    return { ...anywhere, asked: request };
  const asked = { ...request, pinnedHostId: request.onlyHolderId };
  return { ...judge(fleet, asked, policy), asked };
}

export interface Ranking extends Judged {
  /** The best candidates, best first. */
  candidates: { hostId: PlacementHost["id"]; score: number; isLocal: boolean }[];
  /** All candidates, including those that are not listed. */
  candidateCount: number;
  /** The reason when there is no candidate. */
  message?: string;
}

/** Ranks the hosts that `place` would choose from, for people to read. */
export function rank(
  fleet: FleetView,
  request: PlacementRequest,
  policy: PlacementPolicy,
  limit: number,
): Ranking {
  const { best, asked, ...judged } = decide(fleet, request, policy);
  const fitting = fleet.hosts
    .map(({ id }, at) => ({
      hostId: id,
      score: fleet.scores[at] ?? REJECTED,
      isLocal: id === request.localHostId,
    }))
    .filter(({ score }) => score !== REJECTED);
  const candidates = fitting
    .toSorted((a, b) => b.score - a.score || Number(b.isLocal) - Number(a.isLocal))
    .slice(0, limit);
  const nothing = best === -1 ? { message: explain(judged, asked) } : {};
  return { ...judged, candidates, candidateCount: fitting.length, ...nothing };
}

const MISSING: Record<Rejection, (request: PlacementRequest) => string> = {
  host_lost: () => "are lost (they do not answer)",
  other_host: (request) => `are not ${request.pinnedHostId}, where it is`,
  host_not_ready: () => "are cordoned or draining",
  region: (request) => `are not in region ${request.region}`,
  labels: (request) => `have not the labels ${labelText(request.labels)}`,
  image_missing: (request) => `do not have its image ${request.imageSha256.slice(0, 12)}`,
  no_fence: () => "run no fence (torpor-fence), without which on_host_loss cannot be restore",
  fingerprint: () => "have not the VMM or CPU that its snapshot needs",
  anti_affinity: () => "have a sandbox of the same anti-affinity key",
  vcpu: (request) => `have fewer than ${request.vcpu} vCPU free`,
  memory: (request) => `have less than ${request.memoryMib} MiB of memory free`,
  disk: (request) => `have less than ${request.diskMib} MiB of disk free`,
};

const labelText = (labels: Traits["labels"] = {}) =>
  Object.entries(labels)
    .map(([name, value]) => `${name}=${value}`)
    .join(", ");

function explain({ hosts, reasons }: Judged, request: PlacementRequest): string {
  if (hosts === 0) return "No host is registered.";
  const parts = REJECTIONS.flatMap((reason) => {
    const count = reasons[reason];
    return count === undefined ? [] : [`${count} ${MISSING[reason](request)}`];
  });
  return `None of ${hosts} host${hosts === 1 ? "" : "s"} can take it: ${parts.join("; ")}.`;
}
