import { type KeyResource, type OrganizationResource, SCOPES } from "@torpor/contracts";
import type { ApiKeyRecord, OrganizationRow } from "@torpor/db";

const optional = (date: Date | null) => (date === null ? null : date.toISOString());

export function keyView(key: ApiKeyRecord): KeyResource {
  return {
    id: key.id,
    object: "api_key",
    organization_id: key.organizationId,
    organization: key.organization,
    name: key.name,
    hint: key.hint,
    scopes: SCOPES.filter((scope) => key.scopes.includes(scope)),
    status: key.status,
    created_by: key.createdBy,
    created_at: key.createdAt.toISOString(),
    expires_at: optional(key.expiresAt),
    last_used_at: optional(key.lastUsedAt),
    revoked_at: optional(key.revokedAt),
    replaced_by: key.replacedBy,
  };
}

export function organizationView({ id, name, createdAt }: OrganizationRow): OrganizationResource {
  return { id, object: "organization", name, created_at: createdAt.toISOString() };
}
