/** Quotas as clients see them: what is left, and why and until when a request is refused. */
import { QUOTA_NAMES } from "@torpor/contracts";
import type { QuotaRefusal, QuotaUse } from "@torpor/db";
import { describe, expect, test } from "vitest";
import { quotaHeaders, quotaRefused } from "../src/auth/quotas.ts";

const NOTHING = Object.fromEntries(QUOTA_NAMES.map((name) => [name, 0])) as QuotaUse;
const standing = {
  limits: { running_sandboxes: 3, creates_per_minute: 10 },
  used: { ...NOTHING, running_sandboxes: 5, creates_per_minute: 4, sandboxes: 9 },
  createsFreeInMs: 12_300,
};
const refusalOf = (quota: (typeof QUOTA_NAMES)[number]): QuotaRefusal => ({
  kind: "quota_exceeded",
  ...standing,
  quota,
  limit: 3,
  needed: 1,
});

describe("headers", () => {
  test("name each quota that there is, and what is left of it; never less than nothing", () => {
    expect(quotaHeaders(standing)).toEqual({
      "ratelimit-policy": '"running_sandboxes";q=3, "creates_per_minute";q=10;w=60',
      ratelimit: '"running_sandboxes";r=0, "creates_per_minute";r=6;t=13',
    });
  });

  test("are none without quotas", () => {
    expect(quotaHeaders(undefined)).toEqual({});
  });
});

describe("a refusal", () => {
  test.each(["running_sandboxes", "sandboxes", "vcpu", "memory_mb", "disk_mb"] as const)(
    "for want of %s is a 403 that the SDKs take for an exhausted quota",
    (quota) => {
      const { status, code, message, details, headers } = quotaRefused(refusalOf(quota));
      expect([status, code]).toEqual([403, "QUOTA_EXCEEDED"]);
      expect(message).toContain(`The quota '${quota}'`);
      expect(message).toContain("limit is 3");
      expect(message).not.toMatch(/not found/i);
      expect(details).toEqual({ quota, limit: 3, used: standing.used[quota], needed: 1 });
      expect(headers).toHaveProperty("ratelimit");
      expect(headers).not.toHaveProperty("retry-after");
    },
  );

  test.each([
    ["creates_per_minute", 13],
    ["waiting_operations", 1],
  ] as const)("for want of %s is a 429 that passes in %i s", (quota, seconds) => {
    const { status, code, message, details, headers } = quotaRefused(refusalOf(quota));
    expect([status, code]).toEqual([429, "RATE_LIMIT_EXCEEDED"]);
    expect(message).not.toMatch(/quota|limit/i);
    expect(details).toMatchObject({ quota, limit: 3, retry_after_seconds: seconds });
    expect(headers["retry-after"]).toBe(String(seconds));
  });

  test("says to wait for a minute at most, and never for no time", () => {
    const waits = (createsFreeInMs: number | null) =>
      quotaRefused({ ...refusalOf("creates_per_minute"), createsFreeInMs }).headers["retry-after"];
    expect([-5, 0, 1, 60_000, 99_000, null].map(waits)).toEqual(["1", "1", "1", "60", "60", "60"]);
  });
});
