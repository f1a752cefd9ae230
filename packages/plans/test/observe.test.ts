import type { HostId, OperationId } from "@torpor/contracts";
import { SANDBOX_STATES } from "@torpor/state-machine";
import { describe, expect, test } from "vitest";
import { planObservation } from "../src/observe.ts";
import { anObservation, anOperation, aSnapshot, aView, NOW } from "./rows.ts";

const HOST_A = "host-a" as HostId;
const OP_1 = "op_1" as OperationId;

const OBSERVED = ["running", "paused", "stopped", "deleted", "failed"] as const;
const kindOf = (...given: Parameters<typeof planObservation>) => planObservation(...given).kind;

test.each([
  ["SO1: repeated", { revision: 3 }, "stale"],
  ["SO1: of an earlier command", { opSeq: 6, revision: 9 }, "stale"],
  ["SO1: of an earlier run", { epoch: 1, opSeq: 9 }, "stale"],
  ["SO4: of another host", { hostId: "host-b" as HostId }, "foreign"],
  ["SO5: of a run that nobody began", { epoch: 3 }, "ahead"],
  ["SO5: of a command that nobody gave", { opSeq: 8 }, "ahead"],
  ["while its host is at work on it", { busyWith: OP_1 }, "busy"],
  ["of what is so already", {}, "nothing_new"],
] as const)("an observation %s is not applied", (_, given, kind) => {
  expect(kindOf(aView({}), anObservation(given), NOW)).toBe(kind);
});

test.each(SANDBOX_STATES.flatMap((state) => OBSERVED.map((seen) => [seen, state] as const)))(
  "%s, of a sandbox that is %s, is decided",
  (seen, state) => {
    const decision = planObservation(aView({ state }), anObservation({ state: seen }), NOW);
    expect(["plan", "refused", "nothing_new"]).toContain(decision.kind);
    if (decision.kind !== "plan") return;
    expect(decision.plan.isObserved, "what is there is counted, however much is left").toBe(true);
    expect(decision.plan.after).toMatchObject({
      appliedEpoch: 2,
      appliedOpSeq: 7,
      appliedRevision: 4,
    });
  },
);

describe("an operation's outcome", () => {
  const executing = anOperation({ status: "executing", hostId: HOST_A, originHostId: HOST_A });
  const pausing = aView({ state: "pausing" }, { executing });
  const seen = anObservation({ state: "paused", operation: { id: OP_1, outcome: "succeeded" } });

  test("SO2: is its own: another's settles nothing", () => {
    const other = anObservation({
      state: "paused",
      operation: { id: "op_0" as OperationId, outcome: "succeeded" },
    });
    expect(kindOf(pausing, other, NOW)).toBe("stale");
  });

  test("is success where the sandbox got where it was to go", () => {
    const decision = planObservation(pausing, seen, NOW);
    if (decision.kind !== "plan") throw new Error(decision.kind);
    expect(decision.plan.operations).toMatchObject([
      { id: "op_1", patch: { status: "succeeded" } },
    ]);
    expect(decision.plan.claims).toEqual([
      { hostId: "host-a", vcpu: -2, memoryMib: -512, diskMib: 0 },
    ]);
  });

  test("is a failure with a reason where it did not", () => {
    const back = anObservation({ state: "running", operation: { id: OP_1, outcome: "failed" } });
    const decision = planObservation(pausing, back, NOW);
    if (decision.kind !== "plan") throw new Error(decision.kind);
    expect(decision.to).toBe("running");
    expect(decision.plan.operations[0]?.patch).toMatchObject({
      status: "failed",
      error: { code: "OPERATION_FAILED" },
    });
  });

  test("SO3: a host cannot say that an uncommitted resume brought it to run", () => {
    const resume = { ...executing, kind: "resume" as const };
    const view = aView({ state: "resuming", settledState: "paused" }, { executing: resume });
    const decision = planObservation(
      view,
      anObservation({ operation: { id: OP_1, outcome: "succeeded" } }),
      NOW,
    );
    if (decision.kind !== "plan") throw new Error(decision.kind);
    expect(decision.to).toBe("paused");
    const committed = { ...view, executing: { ...resume, committedAt: NOW } };
    expect(
      planObservation(
        committed,
        anObservation({ operation: { id: OP_1, outcome: "succeeded" } }),
        NOW,
      ),
    ).toMatchObject({ to: "running" });
  });

  test("after a move that failed uncommitted, the sandbox is where it came from", () => {
    const moved = {
      ...executing,
      kind: "resume" as const,
      hostId: HOST_A,
      originHostId: "host-z" as HostId,
    };
    const view = aView(
      { state: "resuming", settledState: "paused", originHostId: "host-z" as HostId },
      { executing: moved },
    );
    const decision = planObservation(
      view,
      anObservation({ state: "failed", operation: { id: OP_1, outcome: "failed" } }),
      NOW,
    );
    if (decision.kind !== "plan") throw new Error(decision.kind);
    expect(decision.plan.after).toMatchObject({
      state: "paused",
      hostId: "host-z",
      originHostId: null,
    });
    expect(decision.plan.effects, "what the other host has says nothing").toEqual({});
  });
});

describe("SO6: what is said of a snapshot", () => {
  const held = {
    generation: 1,
    sizeBytes: 1,
    manifestSha256: "b".repeat(64),
    guestSynced: true,
    driverFingerprint: "f",
  };
  const stored = { ...held, storeKey: "k" };
  const late = (snapshot: typeof stored) => anObservation({ epoch: 1, state: "paused", snapshot });

  test("is taken from an earlier run, and from another host", () => {
    const view = aView({}, { named: { snapshot: aSnapshot() } });
    for (const seen of [late(stored), { ...late(stored), hostId: "host-b" as HostId }]) {
      const decision = planObservation(view, seen, NOW);
      expect("plan" in decision && decision.plan?.effects.notesSnapshot).toMatchObject({
        storeKey: "k",
      });
    }
  });

  test("is no news when it is known, or when the sandbox is deleted", () => {
    const known = aView({}, { named: { snapshot: aSnapshot({ storeKey: "k" }) } });
    const deleted = aView({ state: "deleting" }, { named: { snapshot: aSnapshot() } });
    for (const view of [known, deleted])
      expect(planObservation(view, late(stored), NOW)).toEqual({ kind: "stale", plan: undefined });
  });
});
