/** Schemas of the operators' resources: hosts, their drains, findings and history. */
import { HOST_STATES } from "@torpor/state-machine";
import { type Static, Type } from "typebox";
import { Nullable, PAGE, PAGE_QUERY } from "./page.ts";

const Cause = { code: Type.String(), message: Type.String() };
const Amounts = Type.Object({
  vcpu: Type.Integer(),
  memory_mb: Type.Integer(),
  disk_mb: Type.Integer(),
});

const MAX_PARALLEL = 64;
const MAX_MIB_PER_SECOND = 1_000_000;

export const DrainBody = Type.Object(
  {
    max_parallel: Type.Integer({
      minimum: 1,
      maximum: MAX_PARALLEL,
      description: "Sandboxes that are moved at once: so many are unavailable at most",
    }),
    max_mib_per_second: Type.Optional(
      Nullable(
        Type.Integer({
          minimum: 1,
          maximum: MAX_MIB_PER_SECOND,
          description: "Of all copies to the snapshot store together",
        }),
      ),
    ),
    deadline: Type.Optional(
      Nullable(
        Type.String({
          description: "RFC 3339, in the future: the drain ends then, empty host or not",
        }),
      ),
    ),
  },
  { additionalProperties: false },
);

export const HostParams = Type.Object({ id: Type.String() });
export const FindingParams = Type.Object({ id: Type.String(), sandbox: Type.String() });
export const DEFAULT_HOSTS = 1_000;
export const HostListQuery = Type.Object({
  ...PAGE_QUERY,
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: DEFAULT_HOSTS })),
});
export const HostEventsQuery = Type.Object({
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
  after: Type.Optional(
    Type.Integer({
      minimum: 0,
      description: "Id of the last event that is known; without it the newest are answered",
    }),
  ),
});

export const DrainResource = Type.Object({
  status: Type.String({
    description:
      "`active`; `undoing`: ended early, what it has paused is being resumed; `done`, `aborted`, `expired`",
  }),
  budget: Type.Object({
    max_parallel: Type.Integer(),
    max_mib_per_second: Nullable(Type.Number()),
    deadline: Nullable(Type.String()),
  }),
  requested_by: Type.String(),
  started_at: Type.String(),
  ended_at: Nullable(Type.String()),
  sandboxes: Type.Object({
    total: Type.Integer(),
    left: Type.Integer({ description: "Still to be moved; `moving` and `failed` are among them" }),
    moving: Type.Integer(),
    failed: Type.Integer({ description: "Stay where they are for now, and are tried again" }),
    moved: Type.Integer({ description: "Run on another host" }),
    released: Type.Integer({ description: "Paused or stopped, in the snapshot store alone" }),
    returned: Type.Integer({ description: "Left where they are by a drain that ended early" }),
    gone: Type.Integer({ description: "Deleted meanwhile" }),
  }),
  bytes: Type.Object({
    done: Type.Integer({ description: "Copied to the snapshot store" }),
    total: Type.Integer({
      description: "Of the whole drain, without what was left where it is, or deleted",
    }),
    estimated: Type.Integer({
      description: "So many of `total` are expected: of sandboxes whose copy has not begun",
    }),
    per_second: Nullable(
      Type.Integer({
        description: "Lately, pauses and resumes included; null until something has been copied",
      }),
    ),
  }),
  eta_seconds: Nullable(
    Type.Integer({
      description:
        "The bytes that are left, at `per_second` or `max_mib_per_second`, whichever is less; null until something has been copied, while next to nothing is, and when it is over",
    }),
  ),
  failures: Type.Array(
    Type.Object({
      sandbox_id: Type.String(),
      ...Cause,
      attempts: Type.Integer(),
      retry_at: Nullable(Type.String()),
    }),
    { description: "100 at most" },
  ),
});

export const FindingResource = Type.Object({
  sandbox_id: Type.String(),
  kind: Type.String({
    description:
      "`unknown` to the database, `stale` (a run of a lower epoch), or `missing` on the host",
  }),
  message: Type.String(),
  epoch: Type.Integer(),
  quarantined: Type.Boolean({ description: "Its VM is frozen and cut off" }),
  discard_requested_by: Type.Optional(Type.String()),
  first_seen_at: Type.String(),
  last_seen_at: Type.String(),
});

const ImageFinding = Type.Object(
  {
    template: Type.String(),
    image_sha256: Type.String({ description: "The image of the template" }),
    host_image_sha256s: Type.Array(Type.String(), {
      description: "Those that the host says are the template's; five at most",
    }),
    message: Type.String(),
  },
  {
    description:
      "The host says that it has images of a template, and none of them is the one that the operator has named",
  },
);

export type DrainResource = Static<typeof DrainResource>;

export const HostResource = Type.Object({
  id: Type.String(),
  object: Type.Literal("host"),
  state: Type.Enum(HOST_STATES),
  state_before_lost: Type.Optional(Type.Enum(HOST_STATES)),
  region: Type.String(),
  labels: Type.Record(Type.String(), Type.String()),
  driver: Type.String(),
  driver_fingerprint: Type.String(),
  has_fence: Type.Boolean({
    description: "Whether sandboxes with `on_host_loss: restore` can be placed there",
  }),
  agent_version: Type.String(),
  capacity: Amounts,
  used: Amounts,
  sandboxes: Type.Record(Type.String(), Type.Integer(), {
    description:
      "Numbers by state. One that is being brought from one host to another counts on both",
  }),
  load: Nullable(Type.Record(Type.String(), Type.Number())),
  lease_expires_at: Type.String(),
  last_beat_at: Nullable(Type.String()),
  registered_at: Type.String(),
  findings: Type.Array(FindingResource, {
    description: "The first 100, by sandbox; `/v1/hosts/{id}/findings` lists all",
  }),
  finding_count: Type.Integer(),
  templates: Type.Array(Type.String(), { description: "Templates whose image it holds" }),
  image_findings: Type.Array(ImageFinding),
  drain: Nullable(DrainResource),
});
export type HostResource = Static<typeof HostResource>;

export const HostReply = Type.Object({ ...HostResource.properties, request_id: Type.String() });

export const HostList = Type.Object({ ...PAGE, data: Type.Array(HostResource) });
export const FindingList = Type.Object({ ...PAGE, data: Type.Array(FindingResource) });

const HostEventResource = Type.Object({
  object: Type.Literal("host_event"),
  id: Type.Integer(),
  host_id: Type.String(),
  fact: Type.String(),
  from: Nullable(Type.String()),
  to: Type.String(),
  requested_by: Type.String(),
  cause: Type.Optional(Type.Object(Cause)),
  occurred_at: Type.String(),
});
export type HostEventResource = Static<typeof HostEventResource>;

export const HostEventList = Type.Object({
  object: Type.Literal("list"),
  data: Type.Array(HostEventResource),
  has_more: Type.Boolean(),
  url: Type.String(),
  request_id: Type.String(),
});
