/**
 * Templates as the SDKs read them: `display_name` is required by the Python SDK, `features` and
 * `tags` must be absent rather than null.
 */
import { type Static, Type } from "typebox";

const TemplateResources = Type.Object({
  vcpu: Type.Integer(),
  memory_mb: Type.Integer(),
  disk_gb: Type.Integer(),
});

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
  image_sha256: Type.Optional(
    Type.String({ description: "Digest of the image that sandboxes begin with" }),
  ),
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

/** The name is typed on command lines, and links to images on hosts are named by it. */
const TemplateName = Type.String({
  pattern: "^[a-z0-9][a-z0-9._-]{0,62}$",
  description: "Lowercase letters, digits and ._-, 63 at most",
});
const Text = (maxLength: number) => Type.String({ maxLength });
const MAX_MIB = 2 ** 27;

const strict = { additionalProperties: false } as const;

const DefaultSize = Type.Object(
  {
    vcpu: Type.Integer({ minimum: 1, maximum: 1_024 }),
    memory_mb: Type.Integer({ minimum: 1, maximum: MAX_MIB }),
    disk_mb: Type.Integer({ minimum: 1, maximum: MAX_MIB }),
  },
  strict,
);
const texts = {
  display_name: Type.Optional(Text(256)),
  description: Type.Optional(Text(4_096)),
  category: Type.Optional(Text(64)),
  language: Type.Optional(Text(64)),
};
const ImageDigest = Type.String({
  pattern: "^[0-9a-f]{64}$",
  description: "Digest of the image, from its image.json: sandboxes begin on hosts that hold it",
});

export const CreateTemplateBody = Type.Object(
  { name: TemplateName, ...texts, image_sha256: ImageDigest, default_resources: DefaultSize },
  strict,
);
export type CreateTemplateBody = Static<typeof CreateTemplateBody>;

/** Omitted fields stay as they are. Sandboxes keep what they started with. */
export const UpdateTemplateBody = Type.Object(
  {
    ...texts,
    image_sha256: Type.Optional(ImageDigest),
    default_resources: Type.Optional(Type.Partial(DefaultSize, strict)),
  },
  { ...strict, minProperties: 1 },
);
export type UpdateTemplateBody = Static<typeof UpdateTemplateBody>;

export const TemplateDeleted = Type.Object({
  id: Type.String(),
  object: Type.Literal("template"),
  deleted: Type.Literal(true),
  request_id: Type.String(),
});
