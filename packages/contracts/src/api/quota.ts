import { type Static, type TInteger, type TNull, Type, type TUnion } from "typebox";

/**
 * Limits of an organization. Resources count for sandboxes that run or are about to run; `disk_mb`
 * and `sandboxes` count for all sandboxes that are kept.
 */
export const QUOTA_NAMES = [
  "running_sandboxes",
  "sandboxes",
  "vcpu",
  "memory_mb",
  "disk_mb",
  "creates_per_minute",
  "waiting_operations",
] as const;
export type QuotaName = (typeof QUOTA_NAMES)[number];

/** A missing name has no limit. */
export type QuotaLimits = Partial<Record<QuotaName, number>>;

/** Largest integer of Postgres, which no fleet reaches. */
const MAX_LIMIT = 2 ** 31 - 1;

const DESCRIPTION: Record<QuotaName, string> = {
  running_sandboxes: "Sandboxes that run or are about to",
  sandboxes: "Sandboxes that are kept, in whatever state",
  vcpu: "Of those that run or are about to",
  memory_mb: "Of those that run or are about to",
  disk_mb: "Of all that are kept",
  creates_per_minute: "Creates accepted within any 60 s",
  waiting_operations: "Operations that are accepted and have not begun",
};

const Limit = (name: QuotaName) =>
  Type.Union([Type.Integer({ minimum: 0, maximum: MAX_LIMIT }), Type.Null()], {
    description: `${DESCRIPTION[name]}; null: no limit`,
  });
const ofEach = <T>(value: (name: QuotaName) => T) =>
  Object.fromEntries(QUOTA_NAMES.map((name) => [name, value(name)])) as Record<QuotaName, T>;

export const QuotaLimitsBody = Type.Object(
  ofEach((name) => Type.Optional(Limit(name))),
  {
    additionalProperties: false,
    description: "All limits of the organization: one that is left out is none",
  },
);

export const QuotaReply = Type.Object({
  object: Type.Literal("quotas"),
  organization_id: Type.Integer(),
  limits: Type.Object(ofEach<TUnion<[TInteger, TNull]>>(Limit)),
  used: Type.Object(ofEach(() => Type.Integer())),
  request_id: Type.String(),
});
export type QuotaReply = Static<typeof QuotaReply>;
