import type { TemplateResource } from "@torpor/contracts";
import type { TemplateRow } from "@torpor/db";

export function templateView(row: TemplateRow): TemplateResource {
  return {
    id: row.id,
    object: "template",
    name: row.name,
    display_name: row.displayName,
    description: row.description,
    category: row.category,
    language: row.language,
    default_resources: {
      vcpu: row.vcpu,
      memory_mb: row.memoryMib,
      disk_gb: Math.max(1, Math.round(row.diskMib / 1024)),
    },
    features: [],
    tags: [],
    is_active: row.isActive,
    is_public: true,
    status: "active",
    created_at: row.createdAt.toISOString(),
    updated_at: row.updatedAt.toISOString(),
    image_sha256: row.imageSha256,
  };
}
