/**
 * Identity of a program of the fleet, from its certificate: one SPIFFE ID, the URI in the subject
 * alternative name. Programs check each other by this ID, never by an address: the address that a
 * host registers proves nothing.
 */
export type SpiffeIdentity = { role: "gateway" | "scheduler" } | { role: "host"; hostId: string };

const TRUST_DOMAIN = "spiffe://torpor";
const ENTRY = /^URI:spiffe:\/\/torpor\/(?:(gateway|scheduler)|host\/([a-z0-9][a-z0-9-]{0,62}))$/;

export function spiffeIdOf(identity: SpiffeIdentity): string {
  const { role } = identity;
  return `${TRUST_DOMAIN}/${role === "host" ? `host/${identity.hostId}` : role}`;
}

/**
 * Identity in a certificate whose chain was verified, from the text that Node.js gives. Undefined
 * without a SPIFFE ID of this fleet, or with more than one URI, which SPIFFE forbids.
 */
export function identityIn(subjectAltName: string | undefined): SpiffeIdentity | undefined {
  const uris = (subjectAltName ?? "").split(", ").filter((entry) => entry.startsWith("URI:"));
  if (uris.length !== 1) return undefined;
  const [, role, hostId] = ENTRY.exec(uris[0] ?? "") ?? [];
  if (hostId !== undefined) return { role: "host", hostId };
  return role === "gateway" || role === "scheduler" ? { role } : undefined;
}
