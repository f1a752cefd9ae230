/** Rows for tests: complete, with the given values where they matter. */
import type { HostId, Observation, OperationId, SandboxId } from "@torpor/contracts";
import type { Moment } from "../src/commands.ts";
import type { Operation, Sandbox, SnapshotRow, View } from "../src/rows.ts";

const SANDBOX_ID = "1763309903abcdefgh" as SandboxId;

export const NOW = new Date("2026-01-01T00:00:00Z");
export const MOMENT: Moment = { now: NOW, newOperationId: () => "op_new" as OperationId };

export function aSandbox(given: Partial<Sandbox> = {}): Sandbox {
  return {
    id: SANDBOX_ID,
    organizationId: 1,
    state: "running",
    settledState: "running",
    generation: 5,
    lastSeq: 5,
    epoch: 2,
    opSeq: 7,
    appliedEpoch: 2,
    appliedOpSeq: 7,
    appliedRevision: 3,
    hostId: "host-a" as HostId,
    originHostId: null,
    holdsMemory: true,
    vcpu: 2,
    memoryMib: 512,
    diskMib: 1024,
    templateName: "base",
    imageSha256: "a".repeat(64),
    internetAccess: false,
    onHostLoss: "wait",
    antiAffinity: null,
    timeoutSeconds: null,
    expiresAt: null,
    timeoutLeftMs: null,
    startedAt: null,
    endedAt: null,
    lastActiveAt: null,
    error: null,
    condition: null,
    ...given,
  };
}

export function anOperation(given: Partial<Operation> = {}): Operation {
  return {
    id: "op_1" as OperationId,
    sandboxId: SANDBOX_ID,
    kind: "pause",
    status: "waiting",
    requestedBy: "api-key:1",
    deadlineAt: new Date(NOW.getTime() + 60_000),
    committedAt: null,
    cancelRequestedAt: null,
    startedAt: null,
    hostId: null,
    originHostId: null,
    pinnedHostId: null,
    onlyIfIdleForMs: null,
    maxBytesPerSecond: null,
    explain: null,
    traceId: null,
    ...given,
  };
}

export function aSnapshot(given: Partial<SnapshotRow> = {}): SnapshotRow {
  return {
    sandboxId: SANDBOX_ID,
    generation: 1,
    hasMemory: true,
    storeKey: null,
    storeError: null,
    sizeBytes: 1,
    manifestSha256: "b".repeat(64),
    guestSynced: true,
    driverFingerprint: "f",
    createdAt: NOW,
    ...given,
  };
}

export function aView(sandbox: Partial<Sandbox>, given: Partial<View> = {}): View {
  return {
    sandbox: aSandbox(sandbox),
    executing: undefined,
    waiting: undefined,
    snapshot: undefined,
    newestRun: undefined,
    named: {},
    ...given,
  };
}

export function anObservation(given: Partial<Observation> = {}): Observation {
  return {
    type: "observation",
    version: 1,
    hostId: "host-a" as HostId,
    sandboxId: SANDBOX_ID,
    epoch: 2,
    opSeq: 7,
    revision: 4,
    state: "running",
    observedAt: NOW.toISOString(),
    ...given,
  };
}
