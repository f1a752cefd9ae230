/**
 * The identity of a host that joins: a certificate, where this fleet has an authority of its own,
 * and the addresses of the NATS servers.
 */
import { X509Certificate } from "node:crypto";
import type { HostId } from "@torpor/contracts";
import type { Authority } from "@torpor/identity/authority";

export interface FleetIdentity {
  /** URL of the NATS servers, as hosts reach them. */
  natsUrl: string;
  /** The authorities for hosts to trust; null: hosts are configured by other means. */
  authoritiesPem: string | null;
  /** True if this gateway certifies hosts. */
  hasAuthority: boolean;
  /** Returns undefined for text that is no certificate request, or not signed by its own key. */
  certify(requestPem: string, hostId: HostId): Promise<Certified | undefined>;
}

interface Certified {
  /** Digest of the certified key (packages/identity, `keyIn`). */
  keySha256: string;
  /** Null: an authority elsewhere certifies the hosts of this fleet. */
  certificatePem: string | null;
  expiresAt: Date | null;
}

interface FleetAuthority {
  authority: Authority;
  /** Validity of a certificate, in days. */
  days: number;
}

export function fleetIdentity(
  natsUrl: string,
  authoritiesPem: string | null,
  own: FleetAuthority | undefined,
): FleetIdentity {
  return {
    natsUrl,
    authoritiesPem,
    hasAuthority: own !== undefined,
    async certify(requestPem, hostId) {
      const { keyIn } = await import("@torpor/identity/authority");
      const keySha256 = await keyIn(requestPem);
      if (keySha256 === undefined) return undefined;
      if (own === undefined) return { keySha256, certificatePem: null, expiresAt: null };
      const identity = { role: "host", hostId } as const;
      const certificatePem = await own.authority.certify(requestPem, { identity, days: own.days });
      if (certificatePem === undefined) return undefined;
      return {
        keySha256,
        certificatePem,
        expiresAt: new Date(new X509Certificate(certificatePem).validTo),
      };
    },
  };
}
