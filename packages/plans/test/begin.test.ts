import type { HostId, OperationId } from "@torpor/contracts";
import { OPERATION_KINDS, SANDBOX_STATES } from "@torpor/state-machine";
import { describe, expect, test } from "vitest";
import { needsMemory, planAssignment, planBegin } from "../src/begin.ts";
import { anOperation, aSandbox, aSnapshot, aView, MOMENT, NOW } from "./rows.ts";

const placed = { id: "host-b" as HostId, state: "ready", hasFence: false, registeredAt: NOW };

describe("what a waiting operation becomes", () => {
  const pairs = OPERATION_KINDS.flatMap((kind) =>
    SANDBOX_STATES.map((state) => [kind, state] as const),
  );
  test.each(pairs)("%s of a sandbox that is %s is decided", (kind, state) => {
    const operation = anOperation({ kind });
    const decision = planBegin(aView({ state }, { named: { operation } }), MOMENT);
    if (decision.kind !== "ends") {
      expect(decision).toEqual({ kind: "needs_host", operation });
      return;
    }
    const [ended] = decision.plan.operations;
    expect(ended).toMatchObject({ id: operation.id, ends: true });
    // An operation that missed its target has a reason.
    if (ended?.patch.status === "failed") expect(ended.patch.error?.code).toBe("CONFLICT");
    else expect(ended?.patch.status).toBe("succeeded");
  });

  test("nothing begins twice, or while something executes; a delete does not wait", () => {
    const begun = anOperation({ status: "executing" });
    expect(planBegin(aView({}, { named: { operation: begun } }), MOMENT).kind).toBe("nothing");
    const executing = anOperation({
      id: "op_0" as OperationId,
      status: "executing",
      kind: "resume",
    });
    const pause = aView({}, { executing, named: { operation: anOperation() } });
    expect(planBegin(pause, MOMENT).kind).toBe("waits");
    const deleted = { ...pause, named: { operation: anOperation({ kind: "delete" }) } };
    const decision = planBegin(deleted, MOMENT);
    expect(decision.kind === "ends" && decision.plan.operations).toMatchObject([
      { id: "op_0", patch: { status: "cancelled" } },
      { id: "op_1", patch: { status: "succeeded" } },
    ]);
  });

  test("a delete of what is on no host owes nothing", () => {
    const view = aView(
      { hostId: null, holdsMemory: false },
      { named: { operation: anOperation({ kind: "delete" }) } },
    );
    const decision = planBegin(view, MOMENT);
    if (decision.kind !== "ends") throw new Error(decision.kind);
    expect(decision.plan.events.map(({ toState }) => toState)).toEqual(["deleting", "deleted"]);
    expect(decision.plan.messages.every(({ isEvent }) => isEvent)).toBe(true);
    expect(decision.plan.clearsEnvironment).toBe(true);
  });
});

describe("an assignment", () => {
  test("where the sandbox is raises the command's number alone", () => {
    const view = aView({});
    const plan = planAssignment(
      view,
      anOperation(),
      { hostId: "host-a" as HostId, holdsMemory: true },
      MOMENT,
    );
    expect(plan.after).toMatchObject({ state: "pausing", epoch: 2, opSeq: 8, originHostId: null });
    expect([plan.placed, plan.apart, plan.effects, plan.claims]).toEqual([null, null, {}, []]);
  });

  test("on another host begins a run there, keeps the disk's place, and names the snapshot", () => {
    const snapshot = aSnapshot({ storeKey: "k" });
    const sandbox = {
      state: "paused",
      settledState: "paused",
      holdsMemory: false,
      antiAffinity: "db",
    } as const;
    const operation = anOperation({ kind: "resume" });
    const assignment = { hostId: "host-b" as HostId, placed, holdsMemory: true };
    const plan = planAssignment(aView(sandbox, { snapshot }), operation, assignment, MOMENT);
    expect(plan.after).toMatchObject({
      state: "resuming",
      epoch: 3,
      opSeq: 8,
      hostId: "host-b",
      originHostId: "host-a",
    });
    expect(plan.effects.beginsRun).toMatchObject({ epoch: 3, hostId: "host-b" });
    expect(plan.claims).toEqual([{ hostId: "host-b", vcpu: 2, memoryMib: 512, diskMib: 1024 }]);
    expect(plan.apart).toEqual({ organizationId: 1, key: "db", hostId: "host-b" });
    expect(plan.placed).toEqual(placed);
    const command = plan.messages.find(({ isEvent }) => !isEvent);
    expect(command?.payload).toMatchObject({
      kind: "resume",
      epoch: 3,
      opSeq: 8,
      snapshot: { generation: 1, storeKey: "k" },
    });
  });

  test("what has an unsynced snapshot needs its memory to be stopped", () => {
    const paused = aSandbox({ settledState: "paused" });
    expect(needsMemory(paused, aSnapshot({ guestSynced: false }))).toBe(true);
    expect(needsMemory(paused, aSnapshot())).toBe(false);
    expect(needsMemory(aSandbox())).toBe(true);
  });
});
