/** How the record of a sandbox changes: pure functions over every state. */
import {
  type HostId,
  newOperationId,
  newSandboxId,
  type Observation,
  type VmCommand,
} from "@torpor/contracts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { jsonDecoder } from "../src/host/json.ts";
import type { Outcome } from "../src/lifecycle/outcome.ts";
import {
  accepted,
  endedByItself,
  fetched,
  next,
  notStored,
  replicating,
  snapshotOf,
  stored,
  VmRecord,
  withCondition,
  withQuarantine,
} from "../src/lifecycle/record.ts";

const SHARED = {
  spec: {
    sandboxId: newSandboxId(),
    templateName: "t",
    imageSha256: "a".repeat(64),
    resources: { vcpu: 1, memoryMib: 64, diskMib: 64 },
    internetAccess: false,
    envVars: {},
  },
  kernelCmdline: "console=ttyS0",
  hostName: "warm-1",
  epoch: 3,
  opSeq: 7,
  revision: 9,
  generation: 2,
  observedAt: "2026-01-01T00:00:00.000Z",
  agentKey: "b".repeat(64),
  machineId: "c".repeat(32),
};
const SNAPSHOT = {
  generation: 2,
  sizeBytes: 1,
  manifestSha256: "d".repeat(64),
  guestSynced: true,
  storeKey: null,
  driverFingerprint: "simulated/1",
};
const CAUSE = { code: "VMM_KILLED", message: "The VMM was ended by SIGKILL." };
const CONDITION = { code: "vmm_unresponsive", message: "It does not answer." } as const;
const COPYING = { replication: { maxBytesPerSecond: 5 }, replicationFailed: CAUSE };

/** A record of each state, with everything that the state can have. */
const RECORDS: VmRecord[] = [
  { ...SHARED, state: "running", snapshot: SNAPSHOT, condition: CONDITION, quarantined: true },
  { ...SHARED, state: "paused", snapshot: SNAPSHOT, ...COPYING },
  { ...SHARED, state: "stopped", snapshot: SNAPSHOT, cause: CAUSE, ...COPYING },
  { ...SHARED, state: "deleted" },
  { ...SHARED, state: "failed" },
];
/** What each state may have beside the fields of all states. */
const OWN: Record<VmRecord["state"], string[]> = {
  running: ["condition", "quarantined", "snapshot"],
  paused: ["replication", "replicationFailed", "snapshot"],
  stopped: ["cause", "replication", "replicationFailed", "snapshot"],
  deleted: [],
  failed: [],
};

const inState = (state: VmRecord["state"]) =>
  RECORDS.find((record) => record.state === state) as VmRecord;

const command = (given: Partial<VmCommand> = {}): VmCommand => ({
  type: "command",
  version: 1,
  kind: "pause",
  hostId: "host-1" as HostId,
  operationId: newOperationId(),
  epoch: 3,
  opSeq: 8,
  deadlineAt: "2026-01-01T00:00:00.000Z",
  spec: SHARED.spec,
  ...given,
});

const after = (record: VmRecord, outcome: Outcome, given: Partial<VmCommand> = {}) =>
  next(record, { command: command(given), from: record.state }, outcome, { save_memory: 1 });

const ownFields = (record: VmRecord) => {
  const shared = new Set([...Object.keys(SHARED), "state", "operation", "timingsMs"]);
  return Object.keys(record).filter((name) => !shared.has(name));
};

const anyRecord = fc.constantFrom(...RECORDS);
const anyOutcome: fc.Arbitrary<Outcome> = fc.record(
  {
    state: fc.constantFrom<Observation["state"]>(
      "running",
      "paused",
      "stopped",
      "deleted",
      "failed",
    ),
    snapshot: fc.constant({ ...SNAPSHOT, generation: 3 }),
    generation: fc.constant(3),
    cause: fc.constant(CAUSE),
    failed: fc.constant(CAUSE),
    cancelled: fc.boolean(),
    isUntouched: fc.boolean(),
    isElsewhere: fc.boolean(),
  },
  { requiredKeys: ["state"] },
);

test("a record of any state is read as it was written; fields of another state or of a newer agent do no harm", () => {
  const decode = jsonDecoder(VmRecord);
  for (const record of RECORDS) {
    const others = { cause: CAUSE, condition: CONDITION, ofNewerAgent: [1] };
    const written = JSON.stringify({ ...others, ...record });
    expect(decode("vm.json", written)).toMatchObject(record);
    expect(decode("vm.json", JSON.stringify(record))).toEqual(record);
  }
  const unknown = JSON.stringify({ ...SHARED, state: "moving" });
  expect(() => decode("vm.json", unknown)).toThrow(/vm\.json is not valid: /);
});

test("a record has what its state can have and nothing of the state before, and is not changed in place", () => {
  fc.assert(
    fc.property(anyRecord, anyOutcome, fc.nat(20), fc.nat(20), (record, outcome, epoch, opSeq) => {
      const before = structuredClone(record);
      const entered = after(record, outcome, { epoch, opSeq });
      expect(record).toEqual(before);
      expect(entered.state).toBe(outcome.state);
      expect(OWN[entered.state]).toEqual(expect.arrayContaining(ownFields(entered)));
      // SV1, and the identity of the sandbox and its guest.
      expect(entered.epoch).toBe(Math.max(record.epoch, epoch));
      expect(entered.opSeq).toBe(Math.max(record.opSeq, opSeq));
      const { spec, hostName, agentKey, machineId, kernelCmdline } = entered;
      expect({ spec, hostName, agentKey, machineId, kernelCmdline }).toMatchObject({
        spec: SHARED.spec,
        hostName: SHARED.hostName,
        agentKey: SHARED.agentKey,
        machineId: SHARED.machineId,
        kernelCmdline: SHARED.kernelCmdline,
      });
      expect(Object.values(entered)).not.toContain(undefined);
    }),
  );
});

test("the snapshot of a sandbox at rest stays until it runs, or another takes its place", () => {
  const paused = inState("paused");
  expect(snapshotOf(after(paused, { state: "paused", failed: CAUSE }))).toEqual(SNAPSHOT);
  expect(snapshotOf(after(paused, { state: "running" }))).toBeUndefined();
  expect(snapshotOf(after(paused, { state: "stopped" }))).toBeUndefined();
  expect(
    snapshotOf(after(inState("stopped"), { state: "stopped", isUntouched: true, failed: CAUSE })),
  ).toEqual(SNAPSHOT);
  expect(
    snapshotOf(
      after(inState("running"), { state: "paused", isUntouched: true, isElsewhere: true }),
    ),
  ).toBeUndefined();
});

test("a copy to the store is as it was after an operation that changed nothing, and forgotten otherwise", () => {
  const paused = inState("paused");
  expect(after(paused, { state: "paused", failed: CAUSE }, { kind: "resume" })).toMatchObject(
    COPYING,
  );
  expect(ownFields(after(paused, { state: "stopped" }, { kind: "stop" }))).toEqual([]);
  const limited = after(
    inState("running"),
    { state: "paused", snapshot: SNAPSHOT },
    { maxBytesPerSecond: 9 },
  );
  expect(limited).toMatchObject({ replication: { maxBytesPerSecond: 9 } });
});

test("results of copies: stored is named in the record, not stored has its reason, a new request forgets it", () => {
  const inStore = { ...SNAPSHOT, storeKey: "key", generation: 5 };
  for (const state of ["running", "paused", "stopped"] as const) {
    const record = stored(inState(state), inStore);
    expect(record).toMatchObject({ generation: 5, snapshot: inStore });
    expect(ownFields(record)).not.toContain("replication");
  }
  expect(stored(inState("deleted"), inStore)).toEqual(inState("deleted"));
  const waiting = replicating(inState("paused"), undefined);
  expect(waiting).toMatchObject({ replication: {} });
  expect(ownFields(waiting)).not.toContain("replicationFailed");
  expect(notStored(waiting, CAUSE)).toMatchObject({ replicationFailed: CAUSE });
  for (const state of ["running", "deleted", "failed"] as const) {
    expect(replicating(inState(state), 1)).toEqual(inState(state));
    expect(notStored(inState(state), CAUSE)).toEqual(inState(state));
  }
});

test("what happens without a command names no operation", () => {
  const running = after(inState("running"), { state: "running" });
  const changes = [
    endedByItself(running, CAUSE),
    withCondition(running, CONDITION),
    withQuarantine(running, true),
  ];
  expect(changes.map(({ state }) => state)).toEqual(["stopped", "running", "running"]);
  for (const changed of changes) expect(changed.operation).toBeUndefined();
  expect(ownFields(changes[0] as VmRecord)).toEqual(["cause"]);
  expect(withCondition(changes[1] as VmRecord, undefined)).not.toHaveProperty("condition");
  expect(withQuarantine(changes[2] as VmRecord, false)).not.toHaveProperty("quarantined");
  for (const record of RECORDS.filter(({ state }) => state !== "running")) {
    expect(withCondition(record, CONDITION)).toEqual(record);
    expect(withQuarantine(record, true)).toEqual(record);
  }
});

test("a discard does not replace the spec, and what was fetched has the identity of its guest", () => {
  const spec = { ...SHARED.spec, templateName: "other" };
  const running = inState("running");
  expect(accepted(running, command({ kind: "discard", spec })).spec).toEqual(SHARED.spec);
  expect(accepted(running, command({ spec, opSeq: 1 }))).toMatchObject({ spec, opSeq: 7 });
  const origin = { agentKey: "e".repeat(64), machineId: "f".repeat(32), kernelCmdline: "quiet" };
  const here = fetched(running, origin, { ...SNAPSHOT, generation: 8 }, "paused");
  expect(here).toMatchObject({ ...origin, generation: 8, state: "paused" });
  expect(ownFields(here)).toEqual(["snapshot"]);
});
