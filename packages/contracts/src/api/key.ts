/** Schemas of API keys and organizations. */
import { Scope } from "./scope.ts";
import { type Static, Type } from "typebox";
import { Nullable, PAGE, PAGE_QUERY, REQUEST_ID } from "./page.ts";

/** Names are printed in tables and typed on command lines. */
const Name = Type.String({
  minLength: 1,
  maxLength: 64,
  pattern: "^[A-Za-z0-9](?:[A-Za-z0-9 ._:@/-]*[A-Za-z0-9])?$",
  description: "Letters and digits, and between them spaces and ._:@/-",
});
/** Name of an existing organization, which may be older than the rule for names. */
const OrganizationName = Type.String({ minLength: 1, maxLength: 256 });

export const API_KEY_STATUSES = ["active", "expired", "revoked"] as const;
export type ApiKeyStatus = (typeof API_KEY_STATUSES)[number];

const MAX_OVERLAP_SECONDS = 24 * 3600;
const KEY_FORMS = ["torpor", "e2b"] as const;
export type KeyForm = (typeof KEY_FORMS)[number];

export const CreateKeyBody = Type.Object(
  {
    name: Name,
    scopes: Type.Array(Scope, {
      minItems: 1,
      uniqueItems: true,
      description: "Only those that the key of the request has itself",
    }),
    organization: Type.Optional(OrganizationName),
    expires_at: Type.Optional(
      Nullable(
        Type.String({
          description:
            "RFC 3339, in the future; null: never. Without it, as the key of the request, and never later",
        }),
      ),
    ),
    form: Type.Optional(
      Type.Enum(KEY_FORMS, {
        description: "`e2b`: `e2b_` and hexadecimal digits, which some clients insist on",
      }),
    ),
  },
  { additionalProperties: false },
);

export const RotateKeyBody = Type.Object(
  {
    overlap_seconds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: MAX_OVERLAP_SECONDS,
        description: "How long the old secret stays good beside the new one; 0 without it",
      }),
    ),
  },
  { additionalProperties: false },
);

export const KeyListQuery = Type.Object({
  ...PAGE_QUERY,
  status: Type.Optional(Type.Enum(API_KEY_STATUSES)),
  organization: Type.Optional(OrganizationName),
});

export const OrganizationListQuery = Type.Object({
  ...PAGE_QUERY,
});

export const KeyResource = Type.Object({
  id: Type.Integer({ description: "`requested_by` of what the key asks for is `api-key:<id>`" }),
  object: Type.Literal("api_key"),
  organization_id: Type.Integer(),
  organization: Type.String(),
  name: Type.String(),
  hint: Nullable(Type.String({ description: "What the key begins with; null: not known" })),
  scopes: Type.Array(Scope),
  status: Type.Enum(API_KEY_STATUSES),
  created_by: Nullable(Type.String({ description: "null: made with access to the database" })),
  created_at: Type.String(),
  expires_at: Nullable(Type.String()),
  last_used_at: Nullable(Type.String({ description: "To about two minutes" })),
  revoked_at: Nullable(Type.String()),
  replaced_by: Nullable(Type.Integer({ description: "The key that a rotation made of it" })),
});
export type KeyResource = Static<typeof KeyResource>;

export const KeyReply = Type.Object({ ...KeyResource.properties, ...REQUEST_ID });
export const NewKeyReply = Type.Object({
  ...KeyResource.properties,
  secret: Type.String({ description: "The key itself. It is shown this once, and kept nowhere" }),
  ...REQUEST_ID,
});
export const RotatedKeyReply = Type.Object({
  ...NewKeyReply.properties,
  replaces: Type.Object(
    { ...KeyResource.properties },
    { description: "The key with the old secret" },
  ),
});

export const KeyList = Type.Object({ ...PAGE, data: Type.Array(KeyResource) });

export const CreateOrganizationBody = Type.Object({ name: Name }, { additionalProperties: false });
export const OrganizationResource = Type.Object({
  id: Type.Integer(),
  object: Type.Literal("organization"),
  name: Type.String(),
  created_at: Type.String(),
});
export type OrganizationResource = Static<typeof OrganizationResource>;
export const OrganizationReply = Type.Object({ ...OrganizationResource.properties, ...REQUEST_ID });
export const OrganizationList = Type.Object({ ...PAGE, data: Type.Array(OrganizationResource) });
