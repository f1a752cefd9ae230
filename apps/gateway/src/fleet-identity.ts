/**
 * What a host that joins is given: a certificate, where this fleet has an authority of its own, and
 * where the NATS servers are.
 */
import { X509Certificate } from "node:crypto";
import type { Authority } from "@torpor/identity/authority";

export interface FleetIdentity {
  /** Of the NATS servers, as hosts reach them. */
  natsUrl: string;
  /** Whom hosts are to trust; null: they are told otherwise. */
  authoritiesPem: string | null;
  /** Whether this gateway certifies hosts. */
  hasAuthority: boolean;
  /** Undefined: it is no request, or not signed by its key. */
  certify(requestPem: string, hostId: string): Promise<Certified | undefined>;
}

interface Certified {
  /** Of the key that it is for (packages/identity, `keyIn`). */
  keySha256: string;
  /** Null: this fleet's authority is another's. */
  certificatePem: string | null;
  expiresAt: Date | null;
}

interface FleetAuthority {
  authority: Authority;
  /** That a certificate is good. */
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
