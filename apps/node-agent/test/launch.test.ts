/** The outcome of an operation that gets no slot. */
import { describe, expect, test } from "vitest";
import type { Step } from "../src/lifecycle/context.ts";
import { launch } from "../src/lifecycle/launch.ts";
import type { StartSlot, StartSlots } from "../src/lifecycle/start-slots.ts";

const load = { startsAtOnce: 2, startsRunning: 2, startsWaiting: 9 };

/** Launches an operation of that kind with that slot; `calls` has the calls that were made. */
async function launched(kind: string, slot: StartSlot) {
  const calls: string[] = [];
  const slots = { load, take: () => Promise.resolve(slot) } as unknown as StartSlots;
  const step = {
    deps: {
      driver: { end: async () => void calls.push("end") },
      commit: async () => {
        calls.push("commit");
        return { kind: "granted" };
      },
      log: { info: () => {} },
    },
    record: { generation: 1 },
    vm: { dir: "/nonexistent", sandboxId: "s" },
    journal: { command: { kind, operationId: "op", spec: {}, deadlineAt: "2099-01-01" } },
    signal: new AbortController().signal,
    timings: {},
  } as unknown as Step;
  const operation = async () => {
    calls.push("operation");
    return { state: "running" as const };
  };
  return { outcome: await launch(step, slots, operation), calls };
}

const hopeless: StartSlot = { kind: "hopeless", waitMs: 41_200 };

describe("one that cannot begin in time", () => {
  test.each([
    ["create", "failed"],
    ["start", "stopped"],
  ])("a %s: nothing was begun, and when to try again is said", async (kind, state) => {
    const { outcome, calls } = await launched(kind, hopeless);
    const failed = { code: "RATE_LIMIT_EXCEEDED", retryAfterSeconds: 42 };
    expect(outcome).toMatchObject({ state, cancelled: true, isUntouched: true, failed });
    expect(calls, "a VMM of an earlier try is ended").toEqual(["end"]);
  });
});

test.each([
  ["create", ["commit", "operation"]],
  ["start", ["operation"]],
])("a %s that has its slot: %s, and gives the slot back", async (kind, expected) => {
  let released = 0;
  const slot: StartSlot = { kind: "granted", release: () => (released += 1) };
  const { outcome, calls } = await launched(kind, slot);
  expect(outcome).toEqual({ state: "running" });
  expect(calls).toEqual(expected);
  expect(released).toBe(1);
});

test("the end of the process leaves it as it is, for the next one", async () => {
  expect(await launched("create", { kind: "closing" })).toEqual({ outcome: "closing", calls: [] });
});

test.each(["pause", "stop", "delete"])("a %s needs no slot", async (kind) => {
  expect(await launched(kind, hopeless)).toEqual({
    outcome: { state: "running" },
    calls: ["operation"],
  });
});
