/** The sandbox resource of the public API. Field names and types are those that the SDKs read. */
import { type Static, Type } from "typebox";
import { ENV_NAME_PATTERN, MAX_ENV_BYTES, MAX_PROGRAM_STRING_BYTES } from "../env-vars.ts";
import { SandboxId } from "../ids.ts";
import { Nullable } from "./page.ts";

const Timestamp = Type.String({ description: "RFC 3339, UTC, `Z`, 3 fraction digits" });

export const PUBLIC_STATUSES = [
  "creating",
  "running",
  "paused",
  "stopped",
  "error",
  "deleted",
] as const;
export const PublicStatus = Type.Enum(PUBLIC_STATUSES);
export type PublicStatus = Static<typeof PublicStatus>;

/** States by which a list can be filtered. */
export const LISTED_STATES = ["running", "stopped", "paused", "creating", "error"] as const;
export type ListedState = (typeof LISTED_STATES)[number];

export const MAX_TIMEOUT_SECONDS = 30 * 24 * 3600;
export const TimeoutSeconds = Type.Integer({
  minimum: 1,
  maximum: MAX_TIMEOUT_SECONDS,
  description: "Lifetime in seconds from now; the sandbox is deleted when it ends",
});

/** A schema counts characters; `findEnvProblem` counts the bytes. */
export const EnvVars = Type.Record(
  Type.String({ pattern: ENV_NAME_PATTERN }),
  Type.String({ maxLength: MAX_PROGRAM_STRING_BYTES }),
  {
    additionalProperties: false,
    description: `At most ${MAX_ENV_BYTES} bytes as JSON text; each at most ${MAX_PROGRAM_STRING_BYTES} bytes with its name and "="`,
  },
);

export const AutoPause = Type.Object(
  {
    idle_seconds: Type.Integer({
      minimum: 1,
      maximum: MAX_TIMEOUT_SECONDS,
      description: "Seconds without use after which the sandbox is paused",
    }),
  },
  { description: "Pauses the sandbox when nobody uses it; null: never" },
);
export const AutoResume = Type.Boolean({
  description: "Traffic to a paused sandbox resumes it, and waits meanwhile",
});

export const PREVIEW_ACCESS = ["public", "token"] as const;
export type PreviewAccess = (typeof PREVIEW_ACCESS)[number];
export const PreviewAccess = Type.Enum(PREVIEW_ACCESS, {
  description:
    "Who reaches the ports of the sandbox beside its agent's: anybody, or holders of its token or its owner's API key",
});

export const PREVIEW_HOSTS = ["original", "localhost"] as const;
export type PreviewHost = (typeof PREVIEW_HOSTS)[number];
export const PreviewHost = Type.Enum(PREVIEW_HOSTS, {
  description:
    "Which Host the applications of its previews are given. `original`: as the client sent it. `localhost`: `localhost:<port>`, for servers that refuse other names",
});

export const ON_HOST_LOSS = ["wait", "restore"] as const;
export type OnHostLoss = (typeof ON_HOST_LOSS)[number];
export const OnHostLoss = Type.Enum(ON_HOST_LOSS, {
  description:
    "What happens to the running sandbox when its host is lost. `wait`: it comes back with the host. `restore`: its newest replicated snapshot is resumed on another host, and what it did since is lost. Counts from the next run on",
});

export const MAX_METADATA_NAMES = 64;
const METADATA_LIMITS = { maxProperties: MAX_METADATA_NAMES };
const MetadataName = Type.String({ maxLength: 128 });
const MetadataValue = Type.String({ maxLength: 1024 });

const MAX_PLACEMENT_LABELS = 16;
const LABEL_NAME = "[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?";
const LABEL_VALUE = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?";
/** `name=value,name=value`, or empty: the format in which a host's labels are set. */
export const HOST_LABELS_PATTERN = `^(?:${LABEL_NAME}=${LABEL_VALUE}(?:,${LABEL_NAME}=${LABEL_VALUE})*)?$`;

export const SandboxPlacement = Type.Object(
  {
    labels: Type.Optional(
      Type.Record(
        Type.String({ pattern: `^${LABEL_NAME}$` }),
        Type.String({ pattern: `^${LABEL_VALUE}$` }),
        {
          maxProperties: MAX_PLACEMENT_LABELS,
          additionalProperties: false,
          description: "Only hosts that have all of these labels",
        },
      ),
    ),
    anti_affinity: Type.Optional(
      Type.String({
        pattern: "^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$",
        description:
          "Never brought to a host that has another sandbox of the organization with the same key",
      }),
    ),
  },
  { description: "Where it may run, now and whenever it is resumed, started or moved" },
);
export type SandboxPlacement = Static<typeof SandboxPlacement>;

/** Settings of a create that can be changed later. They survive pause, resume, stop and start. */
const POLICIES = {
  auto_pause: Type.Optional(Nullable(AutoPause)),
  auto_resume: Type.Optional(AutoResume),
  preview_access: Type.Optional(PreviewAccess),
  preview_host: Type.Optional(PreviewHost),
  on_host_loss: Type.Optional(OnHostLoss),
};

/**
 * Unknown fields are ignored, as the SDKs expect; older clients may send `template_id` as a number.
 */
export const CreateSandboxBody = Type.Object({
  template_id: Type.Optional(
    Type.Union([Type.String({ minLength: 1, maxLength: 128 }), Type.Integer()]),
  ),
  template_name: Type.Optional(Type.String({ minLength: 1, maxLength: 128 })),
  region: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
  timeout_seconds: Type.Optional(Nullable(TimeoutSeconds)),
  internet_access: Type.Optional(Type.Boolean()),
  env_vars: Type.Optional(EnvVars),
  metadata: Type.Optional(Type.Record(MetadataName, MetadataValue, METADATA_LIMITS)),
  placement: Type.Optional(Nullable(SandboxPlacement)),
  ...POLICIES,
});
export type CreateSandboxBody = Static<typeof CreateSandboxBody>;

/**
 * Omitted fields stay as they are. Metadata is merged name by name, and null removes a name (RFC
 * 7396).
 */
export const PatchSandboxBody = Type.Object({
  ...POLICIES,
  metadata: Type.Optional(Type.Record(MetadataName, Nullable(MetadataValue), METADATA_LIMITS)),
});
export type PatchSandboxBody = Static<typeof PatchSandboxBody>;

/** A create, or a sandbox at rest, for which a dry run chooses a host. */
export const DryRunBody = Type.Object({
  ...CreateSandboxBody.properties,
  sandbox_id: Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: 128,
      description: "Where would this one be resumed or started? The other fields do not count",
    }),
  ),
});

/**
 * Result of a dry run: where the sandbox would be placed now. Nothing is reserved, so the result
 * may be different a moment later.
 */
export const PlacementResource = Type.Object({
  object: Type.Literal("placement"),
  /** The host that would be chosen; null: no host can take the sandbox. */
  host_id: Nullable(Type.String()),
  score: Nullable(Type.Number()),
  policy: Type.String(),
  hosts: Type.Integer({ description: "Hosts of the fleet: all but the retired ones" }),
  candidates: Type.Array(
    Type.Object({ host_id: Type.String(), score: Type.Number(), is_local: Type.Boolean() }),
    {
      description: "Hosts that can take it, best first; at most 10",
    },
  ),
  candidate_count: Type.Integer(),
  reasons: Type.Record(Type.String(), Type.Integer(), {
    description: "Hosts that cannot take it, by reason",
  }),
  message: Type.Optional(Type.String()),
  request_id: Type.String(),
});

export const SetTimeoutBody = Type.Object({ timeout_seconds: TimeoutSeconds });

/**
 * Problems that do not change the state of a sandbox. `host_lost_sandbox`: the host no longer has
 * the sandbox.
 */
export const SANDBOX_CONDITIONS = [
  "host_unreachable",
  "vmm_unresponsive",
  "host_lost_sandbox",
] as const;
/** A condition as stored; `host_unreachable` follows from the host's state. */
export interface SandboxCondition {
  code: Exclude<(typeof SANDBOX_CONDITIONS)[number], "host_unreachable">;
  message: string;
}

/** The operation in flight, shown beside the status. */
export const OperationSummary = Type.Object({
  id: Type.String(),
  kind: Type.String(),
  status: Type.String(),
});

export const SandboxResource = Type.Object({
  id: SandboxId,
  object: Type.Literal("sandbox"),
  status: PublicStatus,
  public_host: Type.String(),
  direct_url: Type.String(),
  preview_url: Type.String(),
  template_id: Type.String(),
  template_name: Type.String(),
  organization_id: Type.Integer(),
  node_id: Type.Optional(Type.String()),
  region: Type.String(),
  resources: Type.Object({
    vcpu: Type.Integer(),
    memory_mb: Type.Integer(),
    disk_mb: Type.Integer(),
  }),
  internet_access: Type.Boolean(),
  live_mode: Type.Boolean(),
  timeout_seconds: Nullable(Type.Integer()),
  expires_at: Nullable(Timestamp),
  created_at: Timestamp,
  updated_at: Timestamp,
  started_at: Type.Optional(Timestamp),
  end_at: Type.Optional(Timestamp),
  metadata: Type.Optional(Type.Record(Type.String(), Type.String())),
  auto_pause: Nullable(AutoPause),
  auto_resume: AutoResume,
  preview_access: PreviewAccess,
  preview_host: PreviewHost,
  on_host_loss: OnHostLoss,
  placement: Type.Optional(SandboxPlacement),
  operation: Type.Optional(OperationSummary),
  condition: Type.Optional(Type.Enum(SANDBOX_CONDITIONS)),
  condition_reason: Type.Optional(Type.String()),
  error: Type.Optional(Type.Object({ code: Type.String(), message: Type.String() })),
  durability: Type.Optional(Type.Union([Type.Literal("host-disk"), Type.Literal("replicated")])),
  snapshot: Type.Optional(Type.Object({ generation: Type.Integer(), size_bytes: Type.Integer() })),
  auth_token: Type.Optional(Type.String()),
  token_expires_at: Type.Optional(Timestamp),
  request_id: Type.String(),
});
export type SandboxResource = Static<typeof SandboxResource>;

export const SandboxList = Type.Object({
  object: Type.Literal("list"),
  data: Type.Array(Type.Omit(SandboxResource, ["request_id"])),
  has_more: Type.Boolean(),
  next_cursor: Nullable(Type.String()),
  url: Type.String(),
  request_id: Type.String(),
});

export const TransitionReply = Type.Object({
  id: Type.String(),
  status: PublicStatus,
  operation_id: Type.Optional(Type.String()),
  /** Set if the request waited for the copy in the store. */
  durability: Type.Optional(Type.Literal("replicated")),
  request_id: Type.String(),
});

export const OperationResource = Type.Object({
  id: Type.String(),
  object: Type.Literal("operation"),
  kind: Type.String(),
  status: Type.String(),
  sandbox_id: Type.String(),
  host_id: Type.Optional(Type.String()),
  requested_by: Type.Optional(Type.String()),
  deadline_at: Timestamp,
  committed_at: Nullable(Timestamp),
  created_at: Timestamp,
  started_at: Nullable(Timestamp),
  ended_at: Nullable(Timestamp),
  error: Type.Optional(Type.Object({ code: Type.String(), message: Type.String() })),
  explain: Type.Optional(Type.Unknown()),
  fetched_bytes: Type.Optional(
    Type.Object(
      { done: Type.Integer(), total: Type.Integer() },
      {
        description:
          "While it brings the sandbox to another host: how much of its files has arrived there, as the host said last",
      },
    ),
  ),
  timings_ms: Type.Optional(Type.Record(Type.String(), Type.Number())),
  request_id: Type.String(),
});
export type OperationResource = Static<typeof OperationResource>;

export const TokenReply = Type.Object({
  auth_token: Type.String(),
  token_expires_at: Timestamp,
  request_id: Type.String(),
});

export const RevokedTokensReply = Type.Object({
  id: Type.String(),
  token_generation: Type.Integer({
    description: "Of the tokens that are got from now on; those of lower ones are good no more",
  }),
  request_id: Type.String(),
});

const MAX_LINK_SECONDS = 3_600;
const MAX_PREVIEW_SESSION_SECONDS = 7 * 24 * 3600;
const MAX_LINK_PATH_LENGTH = 2_048;

/** A link that opens one preview of a sandbox in a browser, whatever its `preview_access` is. */
export const PreviewLinkBody = Type.Object({
  port: Type.Integer({
    minimum: 1,
    maximum: 65_535,
    description: "Of the sandbox; not its agent's",
  }),
  path: Type.Optional(
    Type.String({
      pattern: "^/[!$-~]*$",
      maxLength: MAX_LINK_PATH_LENGTH,
      default: "/",
      description: "Where the link leads to, with its query if there is one; percent-encoded",
    }),
  ),
  expires_in_seconds: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: MAX_LINK_SECONDS,
      default: 300,
      description: "For so long the link can be opened",
    }),
  ),
  session_seconds: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: MAX_PREVIEW_SESSION_SECONDS,
      default: 12 * 3600,
      description: "For so long the browser that opened it may use the preview",
    }),
  ),
});
export type PreviewLinkBody = Static<typeof PreviewLinkBody>;

export const PreviewLink = Type.Object({
  object: Type.Literal("preview_link"),
  url: Type.String(),
  sandbox_id: Type.String(),
  port: Type.Integer(),
  expires_at: Timestamp,
  request_id: Type.String(),
});

export const TimeoutReply = Type.Object({
  id: Type.String(),
  timeout_seconds: Type.Integer(),
  expires_at: Nullable(Timestamp),
  request_id: Type.String(),
});
