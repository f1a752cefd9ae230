import fc from "fast-check";
import { expect, test } from "vitest";
import {
  isEnded,
  OPERATION_EVENTS,
  OPERATION_STATUSES,
  type OperationStatus,
  transitionOperation,
} from "../src/index.ts";

const anyStatus = fc.constantFrom(...OPERATION_STATUSES);
const anyEvent = fc.constantFrom(...OPERATION_EVENTS);
const step = (
  status: OperationStatus,
  event: (typeof OPERATION_EVENTS)[number],
): OperationStatus => {
  const result = transitionOperation(status, event);
  return result.kind === "move" ? result.to : status;
};

test("O1: an ended operation never changes again", () => {
  fc.assert(
    fc.property(anyStatus, fc.array(anyEvent, { maxLength: 20 }), (status, events) => {
      if (!isEnded(status)) return;
      expect(events.reduce(step, status)).toBe(status);
    }),
  );
});

test("O2: an operation whose outcome is unknown can still end either way", () => {
  expect(step("outcome_unknown", "succeed")).toBe("succeeded");
  expect(step("outcome_unknown", "fail")).toBe("failed");
  expect(isEnded("outcome_unknown")).toBe(false);
});

test("O3: only a waiting operation begins", () => {
  for (const status of OPERATION_STATUSES) {
    const result = transitionOperation(status, "begin");
    expect(result.kind === "move", status).toBe(status === "waiting");
  }
});

test("redelivering the event that caused a move never moves the operation again", () => {
  fc.assert(
    fc.property(anyStatus, anyEvent, (status, event) => {
      const once = step(status, event);
      expect(step(once, event)).toBe(once);
    }),
  );
});
