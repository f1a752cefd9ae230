import type { HostId, OperationId } from "@torpor/contracts";
import { SANDBOX_STATES } from "@torpor/state-machine";
import { describe, expect, test } from "vitest";
import { DRAINER, planRequest, type Requester } from "../src/request.ts";
import { anOperation, aSnapshot, aView, MOMENT } from "./rows.ts";

const OP_1 = "op_1" as OperationId;

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

describe("where it may begin at once", () => {
  type View = Parameters<typeof planRequest>[0];
  type Request = Parameters<typeof planRequest>[1];
  const home = { id: "host-a" as HostId, state: "ready", hasFence: true, registeredAt: MOMENT.now };
  const asked = requester({ traceId: "t" });
  const decided = (
    view: View,
    request: Request,
    at: Parameters<typeof planRequest>[4] = { home },
  ) => planRequest(view, request, asked, MOMENT, at);
  const stands = (state: "paused" | "stopped", given: Partial<View["sandbox"]> = {}) =>
    aView(
      { state, settledState: state, holdsMemory: false, ...given },
      { snapshot: aSnapshot({ hasMemory: state === "paused" }) },
    );

  test.each([
    ["pause", "pausing", aView({}), 2],
    ["stop", "stopping", aView({}), 2],
    ["resume", "resuming", stands("paused"), 3],
    ["start", "starting", stands("stopped"), 3],
  ] as const)("a %s does, where the sandbox is", (request, state, view, epoch) => {
    const decision = decided(view, request);
    if (decision.kind !== "queued") throw new Error(decision.kind);
    const { plan } = decision;
    const begins = { hostId: "host-a", originHostId: "host-a", epoch, opSeq: 8 };
    const isNewRun = epoch === 3;
    expect(plan).toMatchObject({
      generation: 5,
      open: {},
      operations: [],
      after: { state, generation: 6, epoch, opSeq: 8, holdsMemory: true },
      queues: { id: "op_new", kind: request, begins },
      events: [{ fact: `${request}_assigned`, operationId: "op_new" }],
      placed: isNewRun ? home : null,
      claims: isNewRun ? [{ hostId: "host-a", vcpu: 2, memoryMib: 512, diskMib: 0 }] : [],
    });
    expect(plan.effects.beginsRun).toEqual(
      isNewRun ? { epoch, hostId: "host-a", onHostLoss: "wait" } : undefined,
    );
    expect(plan.messages.slice(1)).toMatchObject([
      {
        subject: `torpor.v1.host.host-a.cmd.${request}`,
        deadlineMs: 60_000,
        payload: { operationId: "op_new", epoch, opSeq: 8, traceId: "t" },
      },
    ]);
  });

  const executing = anOperation({ id: "op_0" as OperationId, kind: "resume", status: "executing" });
  const waiting = anOperation({ id: OP_1, kind: "pause", requestedBy: DRAINER });
  test.each([
    ["behind what executes", aView({ state: "resuming" }, { executing }), "pause", { home }],
    ["in the place of what gives way", aView({}, { waiting }), "stop", { home }],
    ["on no host", aView({ hostId: null }), "pause", { home }],
    ["stopped from a pause", stands("paused"), "stop", { home }],
    ["deleted", aView({}), "delete", { home }],
    ["that has to be placed", stands("paused"), "resume", { home: undefined }],
    [
      "of which another is the home",
      stands("paused", { hostId: "b" as HostId }),
      "resume",
      { home },
    ],
    ["within a larger transaction", aView({}), "pause", null],
  ] as const)("not one %s", (_, view, request, at) => {
    const decision = planRequest(view, request, asked, MOMENT, at ?? undefined);
    const plan = { events: [], queues: { begins: null } };
    expect(decision).toMatchObject({ kind: "queued", plan });
  });

  test("not one that is pinned to a host", () => {
    const pinned = { ...asked, pinnedHostId: "host-a" as HostId };
    const decision = planRequest(stands("paused"), "resume", pinned, MOMENT, { home });
    expect(decision).toMatchObject({ kind: "queued", plan: { queues: { begins: null } } });
  });
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
  const pausing = anOperation({ id: "op_0" as OperationId, status: "executing" });
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
    const waiting = anOperation({ id: OP_1, kind: "pause", requestedBy: DRAINER });
    const decision = planRequest(aView({}, { waiting }), "stop", requester(), MOMENT);
    expect(decision).toMatchObject({
      kind: "queued",
      supersedes: true,
      plan: { operations: [{ id: "op_1", patch: { status: "superseded" } }] },
    });
  });

  test("a pause for an idle sandbox that somebody joins is one for any", () => {
    const waiting = anOperation({
      id: OP_1,
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
