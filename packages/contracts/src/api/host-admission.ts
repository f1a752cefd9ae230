/** Schemas for the admission of hosts. */
import { HostId } from "../ids.ts";
import { type Static, Type } from "typebox";
import { Nullable, PAGE, REQUEST_ID } from "./page.ts";

/** A host name or an address, as in a URL. */
const AddressHost = Type.String({
  minLength: 1,
  maxLength: 253,
  pattern: "^[A-Za-z0-9.:-]+$",
  description: "The host in the address of its data plane, and no other then",
});
const MAX_LIFETIME_SECONDS = 7 * 86_400;
const DEFAULT_LIFETIME_SECONDS = 3_600;

export const CreateHostTokenBody = Type.Object(
  {
    host_id: Type.Optional(
      Type.String({
        ...HostId,
        description:
          "The host that may join with it, also again, with new keys. Without it: one that is no host yet",
      }),
    ),
    data_plane_host: Type.Optional(AddressHost),
    lifetime_seconds: Type.Optional(
      Type.Integer({
        minimum: 60,
        maximum: MAX_LIFETIME_SECONDS,
        default: DEFAULT_LIFETIME_SECONDS,
      }),
    ),
  },
  { additionalProperties: false },
);
export const lifetimeOf = (asked: number | undefined) => asked ?? DEFAULT_LIFETIME_SECONDS;

const HOST_TOKEN_STATUSES = ["open", "used", "expired", "revoked"] as const;

export const HostTokenResource = Type.Object({
  id: Type.Integer(),
  object: Type.Literal("host_token"),
  host_id: Nullable(Type.String()),
  data_plane_host: Nullable(Type.String()),
  status: Type.Enum(HOST_TOKEN_STATUSES),
  created_by: Type.String(),
  created_at: Type.String(),
  expires_at: Type.String(),
  used_at: Nullable(Type.String()),
  used_by: Nullable(Type.String({ description: "The host that joined with it" })),
});
export type HostTokenResource = Static<typeof HostTokenResource>;

export const HostAdmissionResource = Type.Object({
  object: Type.Literal("host_admission"),
  host_id: Type.String(),
  nats_public_keys: Type.Array(Type.String(), {
    description:
      "Of its user on the NATS servers: the newest first, and for a day the one before. None once it is revoked",
  }),
  data_plane_host: Nullable(Type.String()),
  certificate_expires_at: Nullable(Type.String()),
  admitted_by: Type.String(),
  admitted_at: Type.String(),
  revoked_at: Nullable(Type.String()),
});
export type HostAdmissionResource = Static<typeof HostAdmissionResource>;

const Pem = (what: string, maxLength: number) =>
  Type.String({ minLength: 1, maxLength, pattern: `^-----BEGIN ${what}-----`, description: "PEM" });

export const JoinBody = Type.Object(
  {
    token: Type.String({ minLength: 1, maxLength: 256 }),
    host_id: HostId,
    certificate_request: Pem("CERTIFICATE REQUEST", 8_192),
    nats_public_key: Type.String({ pattern: "^U[A-Z2-7]{55}$", description: "NKey of a user" }),
  },
  { additionalProperties: false },
);

export const JoinReply = Type.Object({
  object: Type.Literal("host_identity"),
  host_id: Type.String(),
  nats_url: Type.String({ description: "The servers, with commas between them" }),
  certificate: Nullable(
    Type.String({
      description: "PEM; null: this fleet's authority is another's, which certifies hosts too",
    }),
  ),
  certificate_expires_at: Nullable(Type.String()),
  authorities: Nullable(Type.String({ description: "PEM: whom the host is to trust" })),
  request_id: Type.String(),
});

export const HostTokenReply = Type.Object({ ...HostTokenResource.properties, ...REQUEST_ID });
export const NewHostTokenReply = Type.Object({
  ...HostTokenResource.properties,
  secret: Type.String({ description: "The token itself. It is shown this once, and kept nowhere" }),
  ...REQUEST_ID,
});
export const HostAdmissionReply = Type.Object({
  ...HostAdmissionResource.properties,
  ...REQUEST_ID,
});

export const HostTokenList = Type.Object({ ...PAGE, data: Type.Array(HostTokenResource) });
export const HostAdmissionList = Type.Object({ ...PAGE, data: Type.Array(HostAdmissionResource) });
