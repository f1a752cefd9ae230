import type { HostAdmissionResource, HostTokenResource } from "@torpor/contracts";
import type { HostAdmissionRow, HostTokenRow } from "@torpor/db";

const optional = (date: Date | null) => (date === null ? null : date.toISOString());

export function hostTokenView(token: HostTokenRow): HostTokenResource {
  return {
    id: token.id,
    object: "host_token",
    host_id: token.hostId,
    data_plane_host: token.dataPlaneHost,
    status: statusOf(token),
    created_by: token.createdBy,
    created_at: token.createdAt.toISOString(),
    expires_at: token.expiresAt.toISOString(),
    used_at: optional(token.usedAt),
    used_by: token.usedBy,
  };
}

function statusOf({ usedAt, revokedAt, expiresAt }: HostTokenRow): HostTokenResource["status"] {
  if (usedAt !== null) return "used";
  if (revokedAt !== null) return "revoked";
  return expiresAt.getTime() <= Date.now() ? "expired" : "open";
}

export function hostAdmissionView(
  admission: HostAdmissionRow & { isBeforeGood: boolean },
): HostAdmissionResource {
  return {
    object: "host_admission",
    host_id: admission.hostId,
    nats_public_keys: keysOf(admission),
    data_plane_host: admission.dataPlaneHost,
    certificate_expires_at: optional(admission.certificateExpiresAt),
    admitted_by: admission.admittedBy,
    admitted_at: admission.admittedAt.toISOString(),
    revoked_at: optional(admission.revokedAt),
  };
}

function keysOf(admission: HostAdmissionRow & { isBeforeGood: boolean }): string[] {
  const { natsPublicKey, natsPublicKeyBefore, revokedAt, isBeforeGood } = admission;
  if (revokedAt !== null) return [];
  const keys = [natsPublicKey, isBeforeGood ? natsPublicKeyBefore : null];
  return [...new Set(keys.filter((key) => key !== null))];
}
