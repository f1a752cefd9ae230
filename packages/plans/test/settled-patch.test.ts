import { describe, expect, test } from "vitest";
import type { Sandbox } from "../src/rows.ts";
import { columnsOnEnter } from "../src/columns-on-enter.ts";

const NOW = new Date("2026-01-01T00:00:00Z");
const row = (fields: Partial<Sandbox>) =>
  ({
    timeoutSeconds: null,
    expiresAt: null,
    timeoutLeftMs: null,
    startedAt: null,
    ...fields,
  }) as Sandbox;

describe("the idle clock", () => {
  test.each(["creating", "resuming", "starting", "pausing"] as const)(
    "S23: starts anew when a sandbox that was %s runs (again)",
    (state) => {
      expect(columnsOnEnter(row({ state }), "running", undefined, NOW)).toMatchObject({
        lastActiveAt: NOW,
      });
    },
  );

  test("is left alone otherwise", () => {
    expect(columnsOnEnter(row({ state: "running" }), "running", undefined, NOW)).toEqual({});
    expect(columnsOnEnter(row({ state: "pausing" }), "paused", undefined, NOW)).not.toHaveProperty(
      "lastActiveAt",
    );
  });
});

test("S14: a sandbox in error has a cause, whether its host gave one or not", () => {
  const cause = { code: "CREATE_FAILED", message: "no" };
  const error = (given?: typeof cause) =>
    columnsOnEnter(row({ state: "running" }), "error", given, NOW).error;
  expect(error(cause)).toEqual(cause);
  expect(error()).toMatchObject({ code: "HOST_REPORTED_FAILURE", message: expect.any(String) });
});

describe("the clock of the timeout", () => {
  const expiresAt = new Date(NOW.getTime() + 5_000);

  test.each(["paused", "stopped"] as const)(
    "S55: stands still while the sandbox is %s, and goes on from there",
    (state) => {
      const stands = columnsOnEnter(
        row({ state: "pausing", timeoutSeconds: 60, expiresAt }),
        state,
        undefined,
        NOW,
      );
      expect(stands).toMatchObject({ expiresAt: null, timeoutLeftMs: 5_000 });
      const later = new Date(NOW.getTime() + 3_600_000);
      const runs = columnsOnEnter(
        row({ state: "resuming", timeoutSeconds: 60, timeoutLeftMs: 5_000 }),
        "running",
        undefined,
        later,
      );
      expect(runs).toMatchObject({
        expiresAt: new Date(later.getTime() + 5_000),
        timeoutLeftMs: null,
      });
    },
  );

  test("S32: goes on untouched when a pause comes to nothing", () => {
    expect(
      columnsOnEnter(
        row({ state: "pausing", timeoutSeconds: 60, expiresAt }),
        "running",
        undefined,
        NOW,
      ),
    ).not.toHaveProperty("expiresAt");
  });
});
