import type { SandboxId } from "@torpor/contracts";
import { expect, test } from "vitest";
import { Activity } from "../src/data-plane/activity.ts";

const SANDBOX_A = "a" as SandboxId;

function clocked() {
  let nowMs = 0;
  const activity = new Activity(() => nowMs);
  return { activity, pass: (ms: number) => void (nowMs += ms) };
}

test("S54: a request without its answer is use, however long it takes; afterwards it counts from the last byte", () => {
  const { activity, pass } = clocked();
  const exchange = activity.begin(SANDBOX_A);
  pass(60_000);
  expect(activity.idleMs(SANDBOX_A)).toBe(0);
  exchange.answered();
  pass(1_000);
  expect(activity.idleMs(SANDBOX_A)).toBe(1_000);
  exchange.touch();
  pass(500);
  expect(activity.idleMs(SANDBOX_A)).toBe(500);
  exchange.end();
  expect(activity.idleMs(SANDBOX_A)).toBe(0);
});

test("the end of one exchange does not hide another that still waits", () => {
  const { activity, pass } = clocked();
  const [first, second] = [activity.begin(SANDBOX_A), activity.begin(SANDBOX_A)];
  first.answered();
  first.end();
  pass(1_000);
  expect(activity.idleMs(SANDBOX_A)).toBe(0);
  second.end();
  pass(1_000);
  expect(activity.idleMs(SANDBOX_A)).toBe(1_000);
});

test("what happened before this process began is not known: it counts from there, and anew from each touch", () => {
  const { activity, pass } = clocked();
  pass(3_000);
  expect(activity.idleMs(SANDBOX_A)).toBe(3_000);
  activity.touch(SANDBOX_A);
  pass(10);
  expect(activity.idleMs(SANDBOX_A)).toBe(10);
  activity.forget(SANDBOX_A);
  expect(activity.idleMs(SANDBOX_A)).toBe(3_010);
});
