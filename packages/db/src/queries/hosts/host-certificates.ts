/** Checks and records the renewal of a host's certificate. */
import type { HostId } from "@torpor/contracts";
import { eq } from "drizzle-orm";
import type { Database } from "../../database.ts";
import { hostAdmissions } from "../../schema.ts";
import { inTransaction } from "../../transaction.ts";
import { lockHost } from "./host-events.ts";

export interface Renewal {
  hostId: HostId;
  /** Digest of the key in the request. */
  certificateKeySha256: string;
  /** End of the new certificate. */
  expiresAt: Date;
}

/** Why the host may not have the certificate. */
export type RenewalRefusal = "not_joined" | "revoked" | "retired" | "another_key";

/**
 * Records a renewal; undefined: the host may have the certificate. A concurrent revocation or
 * retirement comes after the renewal, or refuses it. Repeatable, because the reply may be lost.
 */
export async function renewHostCertificate(
  db: Database,
  { hostId, certificateKeySha256, expiresAt }: Renewal,
): Promise<RenewalRefusal | undefined> {
  return await inTransaction(db, async (tx) => {
    const host = await lockHost(tx, hostId);
    const [admission] = await tx
      .select()
      .from(hostAdmissions)
      .where(eq(hostAdmissions.hostId, hostId))
      .for("update");
    // A host that did not join with a token has no known key.
    if (admission === undefined || admission.certificateKeySha256 === null) return "not_joined";
    if (admission.revokedAt !== null) return "revoked";
    if (host?.state === "retired") return "retired";
    if (admission.certificateKeySha256 !== certificateKeySha256) return "another_key";
    await tx
      .update(hostAdmissions)
      .set({ certificateExpiresAt: expiresAt })
      .where(eq(hostAdmissions.hostId, hostId));
    return undefined;
  });
}
