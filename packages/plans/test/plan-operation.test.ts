/** Changes that the end of an operation makes to its row. */
import type { OperationId } from "@torpor/contracts";
import { describe, expect, test } from "vitest";
import { planOperation } from "../src/plan.ts";

describe("an operation that failed", () => {
  test.each(["RESOURCE_LIMIT_ERROR", "RATE_LIMIT_EXCEEDED"])(
    "because of %s gives its idempotency key back: nothing was carried out",
    (code) => {
      const { patch } = planOperation("op-1" as OperationId, "fail", {
        error: { code, message: "no room" },
      });
      expect(patch).toMatchObject({ status: "failed", idempotencyKey: null });
    },
  );

  test.each(["CREATE_FAILED", "QUOTA_EXCEEDED", "toString"])(
    "because of %s keeps it: the same request has the same answer",
    (code) => {
      const { patch } = planOperation("op-1" as OperationId, "fail", {
        error: { code, message: "broken" },
      });
      expect(patch).not.toHaveProperty("idempotencyKey");
    },
  );
});
