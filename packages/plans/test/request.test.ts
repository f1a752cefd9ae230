import { SANDBOX_STATES } from "@torpor/state-machine";
import { describe, expect, test } from "vitest";
import { DRAINER, planRequest, type Requester } from "../src/request.ts";
import { anOperation, aView, MOMENT } from "./rows.ts";

const REQUESTS = ["pause", "resume", "stop", "start", "delete"] as const;
const requester = (given: Partial<Requester> = {}): Requester => ({
  organizationId: 1,
  requestedBy: "api-key:1",
  deadlineMs: 60_000,
  ...given,
});

const pairs = REQUESTS.flatMap((request) =>
  SANDBOX_STATES.map((state) => [request, state] as const),
);
test.each(pairs)("I1: %s of a sandbox that is %s is decided", (request, state) => {
  const decision = planRequest(aView({ state }), request, requester(), MOMENT);
  if (decision.kind !== "queued") {
    expect(["satisfied", "conflict", "not_found"]).toContain(decision.kind);
    return;
  }
  const { plan } = decision;
  expect(plan.queues).toMatchObject({ id: "op_new", kind: request, deadlineMs: 60_000 });
  expect(plan.open, "it is queued behind what was seen, and nothing else").toEqual({});
  expect(plan.messages.map(({ subject }) => subject)).toEqual([`torpor.v1.intent.${request}`]);
  // Accepting moves no sandbox, and makes no event.
  expect([plan.after.generation, plan.events, plan.claims]).toEqual([5, [], []]);
});

test("a time limit that is no whole number is rounded up", () => {
  const decision = planRequest(aView({}), "pause", requester({ deadlineMs: 1_000.2 }), MOMENT);
  expect(decision).toMatchObject({ plan: { queues: { deadlineMs: 1_001 } } });
});

test("another organization's sandbox is not there", () => {
  expect(planRequest(aView({}), "pause", requester({ organizationId: 2 }), MOMENT).kind).toBe(
    "not_found",
  );
});

describe("a queue that is not empty", () => {
  const pausing = anOperation({ id: "op_0", status: "executing" });
  const view = aView({ state: "pausing" }, { executing: pausing });

  test("S31: the same intent joins, and nothing is written", () => {
    const decision = planRequest(view, "pause", requester(), MOMENT);
    expect(decision).toEqual({ kind: "joined", operation: pausing, plan: undefined });
  });

  test("S21: a resume asks an uncommitted pause to back out", () => {
    const decision = planRequest(view, "resume", requester(), MOMENT);
    expect(decision).toMatchObject({
      kind: "queued",
      plan: { cancels: "op_0", open: { op_0: ["executing", "api-key:1", null, null, null] } },
    });
    const committed = { ...view, executing: { ...pausing, committedAt: MOMENT.now } };
    expect(planRequest(committed, "resume", requester(), MOMENT)).toMatchObject({
      plan: { cancels: null },
    });
  });

  test("A5: what a drain waits for gives way, and is told by whom it was replaced", () => {
    const waiting = anOperation({ id: "op_1", kind: "pause", requestedBy: DRAINER });
    const decision = planRequest(aView({}, { waiting }), "stop", requester(), MOMENT);
    expect(decision).toMatchObject({
      kind: "queued",
      supersedes: true,
      plan: { operations: [{ id: "op_1", patch: { status: "superseded" } }] },
    });
  });

  test("a pause for an idle sandbox that somebody joins is one for any", () => {
    const waiting = anOperation({
      id: "op_1",
      onlyIfIdleForMs: 1_000,
      requestedBy: "system:auto-pause",
    });
    const idle = aView({}, { waiting });
    expect(planRequest(idle, "pause", requester(), MOMENT)).toMatchObject({
      kind: "joined",
      plan: { joins: { id: "op_1", liftsBounds: true, takenOverBy: null } },
    });
    const again = planRequest(idle, "pause", requester({ onlyIfIdleForMs: 1_000 }), MOMENT);
    expect(again).toEqual({ kind: "joined", operation: waiting, plan: undefined });
  });
});

describe("what is owed to a sandbox", () => {
  test("is given up by a pause that somebody asks for, queued or satisfied", () => {
    const effects = { keepsPaused: true, forgetsRestore: true };
    expect(planRequest(aView({}), "pause", requester(), MOMENT)).toMatchObject({
      plan: { effects },
    });
    const paused = aView({ state: "paused", settledState: "paused" }, { isOwed: true });
    expect(planRequest(paused, "pause", requester(), MOMENT)).toMatchObject({
      kind: "satisfied",
      plan: { effects, queues: null },
    });
  });

  test("is not touched where nothing is owed, nor by a pause for an idle sandbox", () => {
    const paused = aView({ state: "paused", settledState: "paused" }, { isOwed: false });
    expect(planRequest(paused, "pause", requester(), MOMENT)).toEqual({
      kind: "satisfied",
      state: "paused",
      plan: undefined,
    });
    const idle = planRequest(aView({}), "pause", requester({ onlyIfIdleForMs: 1 }), MOMENT);
    expect(idle).toMatchObject({ kind: "queued", plan: { effects: {} } });
  });
});
