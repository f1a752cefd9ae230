/**
 * Decides whether a host may register: the host has joined the fleet, was not revoked, and is at a
 * permitted address.
 */
import type { HostId } from "@torpor/contracts";
import { type HostAdmissionRow, wasRevoked } from "@torpor/db";

export const HOST_ADMISSIONS = ["required", "optional"] as const;
type HostAdmissionRule = (typeof HOST_ADMISSIONS)[number];

/** Requirements for a host: to have joined, and to be reached over TLS. */
export interface HostRules {
  admission: HostAdmissionRule;
  tls: HostAdmissionRule;
}

interface Asked {
  hostId: HostId;
  /** Has passed `dataPlaneUrlProblem`. */
  dataPlaneUrl: string;
}

/** The reason, in words for the operator of the host; undefined: the host may register. */
export function admissionProblem(
  { hostId, dataPlaneUrl }: Asked,
  admission:
    | Pick<HostAdmissionRow, "revokedAt" | "dataPlaneHost" | "certificateExpiresAt">
    | undefined,
  rules: HostRules,
): string | undefined {
  const { protocol, hostname } = new URL(dataPlaneUrl);
  // Without TLS, a gateway cannot know who is at an address, and sends it what is for the host.
  const needsTls = rules.tls === "required" || (admission?.certificateExpiresAt ?? null) !== null;
  if (needsTls && protocol !== "https:")
    return `dataPlaneUrl begins with ${protocol}: this host is to be reached by TLS alone, set TLS_CERT_FILE and https:// in DATA_PLANE_URL`;
  if (admission === undefined)
    return rules.admission === "optional"
      ? undefined
      : `host ${hostId} has not joined this fleet: make a token (./torpor hosts token) and run torpor-node-agent join there`;
  if (admission.revokedAt !== null) return wasRevoked(hostId, admission.revokedAt);
  const { dataPlaneHost } = admission;
  if (dataPlaneHost === null || bare(hostname) === bare(dataPlaneHost)) return undefined;
  return `dataPlaneUrl is at ${bare(hostname)}: this host was admitted at ${dataPlaneHost} alone`;
}

/** The name or address without the brackets of IPv6. */
const bare = (host: string) => host.replace(/^\[(.*)\]$/, "$1").toLowerCase();
