/**
 * Whether a host may register: it has joined the fleet, was not revoked, and is where it may be.
 */
import { type HostAdmissionRow, wasRevoked } from "@torpor/db";

export const HOST_ADMISSIONS = ["required", "optional"] as const;
export type HostAdmissionRule = (typeof HOST_ADMISSIONS)[number];

interface Asked {
  hostId: string;
  /** One as `dataPlaneUrlProblem` takes it. */
  dataPlaneUrl: string;
}

/** In words for whoever set the host up; undefined: it may. */
export function admissionProblem(
  { hostId, dataPlaneUrl }: Asked,
  admission: Pick<HostAdmissionRow, "revokedAt" | "dataPlaneHost"> | undefined,
  rule: HostAdmissionRule,
): string | undefined {
  if (admission === undefined)
    return rule === "optional"
      ? undefined
      : `host ${hostId} has not joined this fleet: make a token (./torpor hosts token) and run torpor-node-agent join there`;
  if (admission.revokedAt !== null) return wasRevoked(hostId, admission.revokedAt);
  const { dataPlaneHost } = admission;
  const { hostname } = new URL(dataPlaneUrl);
  if (dataPlaneHost === null || bare(hostname) === bare(dataPlaneHost)) return undefined;
  return `dataPlaneUrl is at ${bare(hostname)}: this host was admitted at ${dataPlaneHost} alone`;
}

/** Without the brackets of an IPv6 address. */
const bare = (host: string) => host.replace(/^\[(.*)\]$/, "$1").toLowerCase();
