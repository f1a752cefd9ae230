/**
 * The rows that decisions are made from, as far as they look at them. The rows of the database
 * (packages/db) have all of it, under the same names.
 */
import type { Cause, SandboxCondition } from "@torpor/contracts";
import type {
  OperationKind,
  OperationStatus,
  SandboxState,
  StableState,
} from "@torpor/state-machine";

export interface Sandbox {
  id: string;
  organizationId: number;
  state: SandboxState;
  settledState: StableState;
  /** Compare-and-set key: raised by every move. */
  generation: number;
  /** Of its newest event. */
  lastSeq: number;
  epoch: number;
  opSeq: number;
  appliedEpoch: number;
  appliedOpSeq: number;
  appliedRevision: number;
  hostId: string | null;
  originHostId: string | null;
  holdsMemory: boolean;
  vcpu: number;
  memoryMib: number;
  diskMib: number;
  templateName: string;
  imageSha256: string;
  internetAccess: boolean;
  onHostLoss: "wait" | "restore";
  antiAffinity: string | null;
  timeoutSeconds: number | null;
  expiresAt: Date | null;
  timeoutLeftMs: number | null;
  startedAt: Date | null;
  endedAt: Date | null;
  lastActiveAt: Date | null;
  error: Cause | null;
  condition: SandboxCondition | null;
}

export interface Operation {
  id: string;
  sandboxId: string;
  kind: OperationKind;
  status: OperationStatus;
  requestedBy: string;
  deadlineAt: Date;
  committedAt: Date | null;
  /** Since when it is asked to back out. */
  cancelRequestedAt: Date | null;
  startedAt: Date | null;
  hostId: string | null;
  originHostId: string | null;
  pinnedHostId: string | null;
  onlyIfIdleForMs: number | null;
  maxBytesPerSecond: number | null;
  explain: unknown;
  traceId: string | null;
}

export interface SnapshotRow {
  sandboxId: string;
  generation: number;
  hasMemory: boolean;
  storeKey: string | null;
  storeError: Cause | null;
  sizeBytes: number;
  manifestSha256: string;
  guestSynced: boolean;
  driverFingerprint: string;
  createdAt: Date;
}

export interface Incarnation {
  epoch: number;
  hostId: string;
  assignedAt: Date;
  startedAt: Date | null;
}

/** What one read brings of a sandbox. */
export interface View {
  sandbox: Sandbox;
  /** Executing, or with an outcome that nobody knows yet. */
  executing: Operation | undefined;
  waiting: Operation | undefined;
  /** The newest that is still there. */
  snapshot: SnapshotRow | undefined;
  /** The run of the sandbox's epoch. */
  newestRun: Incarnation | undefined;
  /** A drain or a loss of its host owes it that it runs again; undefined: not asked. */
  isOwed?: boolean | undefined;
  /** What was asked for by name; undefined: nothing, or there is none. */
  named: {
    operation?: Operation | undefined;
    /** By its idempotency key. */
    repeat?: Operation | undefined;
    /** By its manifest, dropped or not. */
    snapshot?: SnapshotRow | undefined;
    /** By its epoch. */
    run?: Incarnation | undefined;
  };
}
