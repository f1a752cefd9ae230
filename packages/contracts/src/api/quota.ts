/**
 * What an organization may have and ask for, at most. Resources are those of sandboxes that run or
 * are about to; `disk_mb` and `sandboxes` are of all that are kept.
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

/** A name that is not there has no limit. */
export type QuotaLimits = Partial<Record<QuotaName, number>>;
