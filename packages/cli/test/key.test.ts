import { describe, expect, test } from "vitest";
import { expiryIn, scopesIn } from "../src/commands/key.ts";
import { changedLimits } from "../src/commands/org.ts";
import { durationSeconds } from "../src/duration.ts";

describe("durations", () => {
  test.each([
    ["0s", 0],
    ["90s", 90],
    ["30m", 1800],
    ["12h", 43_200],
    ["30d", 2_592_000],
  ])("%s", (text, seconds) => {
    expect(durationSeconds("--overlap", text)).toBe(seconds);
  });

  test.each(["", "1", "h", "1.5h", "-1h", "1 h", "1w", "1hh", "toString", "9999999s"])(
    "%j is none",
    (text) => {
      expect(() => durationSeconds("--overlap", text)).toThrow(
        /^--overlap must be a number of s, m, h or d/,
      );
    },
  );

  test("a key ends after one, or at a time that is passed on", () => {
    expect(expiryIn("1h", 0)).toBe("1970-01-01T01:00:00.000Z");
    expect(expiryIn("2031-05-01T12:00:00Z", 0)).toBe("2031-05-01T12:00:00Z");
  });
});

test.each([
  [["read,exec"], ["read", "exec"]],
  [
    ["read", "lifecycle, exec", "read"],
    ["read", "lifecycle", "exec"],
  ],
])("scopes %j", (given, scopes) => {
  expect(scopesIn(given)).toEqual(scopes);
});

const LIMITS = { vcpu: null, sandboxes: 3, disk_mb: null };
test("quotas are set and taken away by name", () => {
  expect(changedLimits(LIMITS, ["vcpu=8", "sandboxes=none"])).toEqual({
    vcpu: 8,
    sandboxes: null,
    disk_mb: null,
  });
});

test.each(["cpu=8", "vcpu", "vcpu=", "vcpu=-1", "vcpu=1.5", "vcpu=8=9", "=1", "toString=1"])(
  "%j is no quota",
  (text) => {
    expect(() => changedLimits(LIMITS, [text])).toThrow(/^(there is no quota|vcpu must be)/);
  },
);
