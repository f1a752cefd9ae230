/**
 * Who a program of the fleet is, as its certificate says: one SPIFFE ID, the URI in its subject
 * alternative name. Programs check each other by it, never by an address: what a host registers as
 * its address says nothing of who is there.
 */
export type SpiffeIdentity = { role: "gateway" | "scheduler" } | { role: "host"; hostId: string };

const TRUST_DOMAIN = "spiffe://torpor";
const ENTRY = /^URI:spiffe:\/\/torpor\/(?:(gateway|scheduler)|host\/([a-z0-9][a-z0-9-]{0,62}))$/;

export function spiffeIdOf(identity: SpiffeIdentity): string {
  const { role } = identity;
  return `${TRUST_DOMAIN}/${role === "host" ? `host/${identity.hostId}` : role}`;
}

/**
 * Of a certificate whose chain was verified; the text as Node.js gives it. Undefined where it has
 * no
 * SPIFFE ID of this fleet's, or more than one URI, which SPIFFE forbids.
 */
export function identityIn(subjectAltName: string | undefined): SpiffeIdentity | undefined {
  const uris = (subjectAltName ?? "").split(", ").filter((entry) => entry.startsWith("URI:"));
  if (uris.length !== 1) return undefined;
  const [, role, hostId] = ENTRY.exec(uris[0] ?? "") ?? [];
  if (hostId !== undefined) return { role: "host", hostId };
  return role === "gateway" || role === "scheduler" ? { role } : undefined;
}
