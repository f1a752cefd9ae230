/** What the database has to say to the renewal of a host's certificate. */
import { eq } from "drizzle-orm";
import type { Database } from "../database.ts";
import { hostAdmissions } from "../schema.ts";
import { inTransaction } from "../transaction.ts";
import { lockHost } from "./host-events.ts";

export interface Renewal {
  hostId: string;
  /** Of the key in the request. */
  certificateKeySha256: string;
  /** Of the certificate that it is to be given. */
  expiresAt: Date;
}

/** Undefined: it is noted, and the host may have it; else why it may not. */
export type RenewalRefusal = "not_joined" | "revoked" | "retired" | "another_key";

/**
 * A host that is revoked or retired at the same moment is refused, or was renewed before that. The
 * same host may ask again: its answer may have been lost.
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
    // One that did not join by a token has no key that is known here.
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
