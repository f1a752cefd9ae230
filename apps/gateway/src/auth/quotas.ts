/**
 * Quotas as clients see them: in headers, and in the refusal of what would exceed them.
 *
 * The headers are those of draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy` has each quota
 * (q, within w seconds), `RateLimit` what is left of it (r).
 */
import { QUOTA_NAMES, type QuotaName } from "@torpor/contracts";
import {
  type AcceptedOperation,
  findQuotas,
  forOrganization,
  type QuotaRefusal,
  type QuotaStatus,
} from "@torpor/db";
import type { Dependencies } from "../deps.ts";
import { type ApiError, quotaExceeded, tooManyRequests } from "../http/errors.ts";

const CREATES_WITHIN_S = 60;
/** Operations begin within moments, unless the fleet is full. */
const RETRY_WAITING_S = 1;

/** No headers for an organization without quotas. */
export function quotaHeaders(standing: QuotaStatus | undefined): Record<string, string> {
  if (standing === undefined) return {};
  const { limits, used } = standing;
  const named = QUOTA_NAMES.flatMap((name) => {
    const limit = limits[name];
    if (limit === undefined) return [];
    const isOfMinute = name === "creates_per_minute";
    const policy = `"${name}";q=${limit}${isOfMinute ? `;w=${CREATES_WITHIN_S}` : ""}`;
    const frees = isOfMinute && used[name] > 0 ? `;t=${secondsUntilFree(standing)}` : "";
    return [{ policy, left: `"${name}";r=${Math.max(0, limit - used[name])}${frees}` }];
  });
  return {
    "ratelimit-policy": named.map(({ policy }) => policy).join(", "),
    ratelimit: named.map(({ left }) => left).join(", "),
  };
}

/** Headers for the response to an accepted request. A repeat has been counted before. */
export async function quotaHeadersOf(
  { db }: Pick<Dependencies, "db">,
  organizationId: number,
  accepted: Pick<AcceptedOperation, "isNew" | "quotas"> | undefined,
): Promise<Record<string, string>> {
  const isCounted = accepted?.isNew === true;
  return quotaHeaders(
    isCounted
      ? accepted.quotas
      : await findQuotas(forOrganization(db, organizationId), organizationId),
  );
}

const ADVICE: Record<Exclude<QuotaName, "creates_per_minute" | "waiting_operations">, string> = {
  running_sandboxes: "Pause, stop or delete one that runs",
  sandboxes: "Delete one",
  vcpu: "Pause, stop or delete a sandbox that runs",
  memory_mb: "Pause, stop or delete a sandbox that runs",
  disk_mb: "Delete a sandbox",
};

/** A quota that time frees is a 429 with Retry-After. For the others a user has to act: a 403. */
export function quotaRefused(refusal: QuotaRefusal): ApiError {
  const { quota, limit, needed, used } = refusal;
  const headers = quotaHeaders(refusal);
  const details = { quota, limit, used: used[quota], needed };
  switch (quota) {
    case "creates_per_minute": {
      const seconds = secondsUntilFree(refusal);
      const message = `Your organization may create ${limit} sandboxes within a minute. Try again in ${seconds} s.`;
      return tooManyRequests(message, seconds, { headers, details });
    }
    case "waiting_operations": {
      const message = `${used[quota]} operations of your organization wait to begin, of ${limit} that may. Try again in a moment.`;
      return tooManyRequests(message, RETRY_WAITING_S, { headers, details });
    }
    default: {
      const message =
        `The quota '${quota}' of your organization is used up: the limit is ${limit}, ${used[quota]} are used, ` +
        `and this needs ${needed}. ${ADVICE[quota]}, or ask an operator for more.`;
      return quotaExceeded(message, { headers, details });
    }
  }
}

const secondsUntilFree = ({ createsFreeInMs }: QuotaStatus) =>
  Math.min(
    CREATES_WITHIN_S,
    Math.max(1, Math.ceil((createsFreeInMs ?? CREATES_WITHIN_S * 1000) / 1000)),
  );
