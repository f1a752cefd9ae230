import { type Scope, SCOPES } from "@torpor/contracts";
import { describe, expect, test } from "vitest";
import { checkGrant, checkRevocation, checkRotation } from "../src/auth/key-rules.ts";
import { futureTime } from "../src/http/future-time.ts";

const SOON = new Date("2031-05-01T12:00:00Z");
const LATER = new Date("2031-05-02T12:00:00Z");
const key = (scopes: readonly Scope[], given: { org?: number; until?: Date } = {}) => ({
  organizationId: given.org ?? 1,
  scopes: [...scopes],
  expiresAt: given.until ?? null,
});
const OPERATOR = key(SCOPES);
const TENANT = key(["read", "lifecycle"]);

describe("a key gives what it has itself, and no more", () => {
  test.each<[string, ReturnType<typeof key>, ReturnType<typeof key>, object | undefined]>([
    ["its own scopes", TENANT, key(["read", "lifecycle"]), undefined],
    ["some of them", TENANT, key(["read"]), undefined],
    ["one that it lacks", TENANT, key(["read", "exec"]), { kind: "scope", scope: "exec" }],
    ["the operator's", TENANT, key(["operator"]), { kind: "scope", scope: "operator" }],
    [
      "to another organization",
      TENANT,
      key(["read"], { org: 2 }),
      { kind: "scope", scope: "operator" },
    ],
    ["an operator's to another", OPERATOR, key(SCOPES, { org: 2 }), undefined],
    [
      "an operator's, what it lacks",
      key(["operator"]),
      key(["exec"]),
      { kind: "scope", scope: "exec" },
    ],
    ["for a while", TENANT, key(["read"], { until: SOON }), undefined],
    [
      "for as long as itself",
      key(["read"], { until: SOON }),
      key(["read"], { until: SOON }),
      undefined,
    ],
    [
      "for longer",
      key(["read"], { until: SOON }),
      key(["read"], { until: LATER }),
      { kind: "outlasts", until: SOON },
    ],
    ["for ever", key(["read"], { until: SOON }), key(["read"]), { kind: "outlasts", until: SOON }],
    [
      "an operator's for ever",
      key(SCOPES, { until: SOON }),
      key(["read"]),
      { kind: "outlasts", until: SOON },
    ],
  ])("%s", (_, owner, asked, problem) => {
    expect(checkGrant(owner, asked)).toEqual(problem);
  });
});

describe("a rotation gives a secret away", () => {
  test("so it follows the same rule, and says nothing of another organization's keys", () => {
    expect(checkRotation(TENANT, key(["read"]))).toBeUndefined();
    expect(checkRotation(TENANT, OPERATOR)).toEqual({ kind: "scope", scope: "exec" });
    expect(checkRotation(TENANT, key(["read"], { org: 2 }))).toEqual({ kind: "unknown" });
    expect(checkRotation(OPERATOR, key(["read"], { org: 2 }))).toBeUndefined();
    expect(checkRotation(key(["operator"]), key(["read"]))).toEqual({
      kind: "scope",
      scope: "read",
    });
    expect(checkRotation(key(SCOPES, { until: SOON }), TENANT)).toMatchObject({ kind: "outlasts" });
  });
});

describe("a revocation", () => {
  test("by an operator ends any key, by others those of their organization that can do no more", () => {
    expect(checkRevocation(key(["operator"]), key(["exec"], { org: 2 }))).toBeUndefined();
    expect(checkRevocation(TENANT, key(["read"]))).toBeUndefined();
    expect(checkRevocation(TENANT, key(["read", "exec"]))).toEqual({
      kind: "scope",
      scope: "exec",
    });
    expect(checkRevocation(TENANT, OPERATOR)).toMatchObject({ kind: "scope" });
    expect(checkRevocation(TENANT, key(["read"], { org: 2 }))).toEqual({ kind: "unknown" });
    expect(
      checkRevocation(key(["lifecycle"], { until: SOON }), key(["lifecycle"])),
    ).toBeUndefined();
  });
});

test.each(["", "tomorrow", "2020-01-01T00:00:00Z", "2031-05-01", "2031-13-01T00:00:00Z", "1e99"])(
  "%j is no time in the future, and the answer names the field",
  (text) => {
    expect(() => futureTime("expires_at", text)).toThrow(
      /^expires_at must be a time in the future/,
    );
  },
);

test("a time in the future is taken with its zone", () => {
  expect(futureTime("expires_at", "2131-05-01T12:00:00+02:00").toISOString()).toBe(
    "2131-05-01T10:00:00.000Z",
  );
});
