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
