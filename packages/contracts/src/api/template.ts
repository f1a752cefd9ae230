/** Templates as the SDKs read them (hopx-contract.md 1.6): `display_name` is required by the Python SDK, `features` and `tags` must be absent rather than null. */
import { type Static, Type } from "typebox";

const TemplateResources = Type.Object({ vcpu: Type.Integer(), memory_mb: Type.Integer(), disk_gb: Type.Integer() });

export const TemplateResource = Type.Object({
  id: Type.String(),
  object: Type.Literal("template"),
  name: Type.String(),
  display_name: Type.String(),
  description: Type.String(),
  category: Type.String(),
  language: Type.String(),
  default_resources: TemplateResources,
  features: Type.Array(Type.String()),
  tags: Type.Array(Type.String()),
  is_active: Type.Boolean(),
  is_public: Type.Boolean(),
  status: Type.String(),
  created_at: Type.String(),
  updated_at: Type.String(),
  request_id: Type.Optional(Type.String()),
});
export type TemplateResource = Static<typeof TemplateResource>;

export const TemplateList = Type.Object({
  object: Type.Literal("list"),
  data: Type.Array(TemplateResource),
  has_more: Type.Boolean(),
  url: Type.String(),
  request_id: Type.String(),
});
