/**
 * The rows that decisions are made from, with the columns that decisions read. The rows of the
 * database (packages/db) have more columns, and these under the same names.
 */
import type { Cause, HostId, OperationId, SandboxCondition, SandboxId } from "@torpor/contracts";
import type {
  OperationKind,
  OperationStatus,
  SandboxState,
  StableState,
} from "@torpor/state-machine";

export interface Sandbox {
  id: SandboxId;
  organizationId: number;
  state: SandboxState;
  settledState: StableState;
  /** Compare-and-set key: raised by every move. */
  generation: number;
  /** Sequence number of the newest event. */
  lastSeq: number;
  epoch: number;
  opSeq: number;
  appliedEpoch: number;
  appliedOpSeq: number;
  appliedRevision: number;
  hostId: HostId | null;
  originHostId: HostId | null;
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
  id: OperationId;
  sandboxId: SandboxId;
  kind: OperationKind;
  status: OperationStatus;
  requestedBy: string;
  deadlineAt: Date;
  committedAt: Date | null;
  /** Time since which the operation is to back out. */
  cancelRequestedAt: Date | null;
  startedAt: Date | null;
  hostId: HostId | null;
  originHostId: HostId | null;
  pinnedHostId: HostId | null;
  onlyIfIdleForMs: number | null;
  maxBytesPerSecond: number | null;
  explain: unknown;
  traceId: string | null;
}

export interface SnapshotRow {
  sandboxId: SandboxId;
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
  hostId: HostId;
  assignedAt: Date;
  startedAt: Date | null;
}

/** Rows of one sandbox, from one read. */
export interface View {
  sandbox: Sandbox;
  /** The operation that executes, or whose outcome is unknown. */
  executing: Operation | undefined;
  waiting: Operation | undefined;
  /** The newest snapshot that is not dropped. */
  snapshot: SnapshotRow | undefined;
  /** The run of the sandbox's epoch. */
  newestRun: Incarnation | undefined;
  /** A restore, or the resume of a drain, is pending. Undefined: not read. */
  isOwed?: boolean | undefined;
  /** Rows that the reader named. Undefined: not named, or not found. */
  named: {
    operation?: Operation | undefined;
    /** Named by its idempotency key. */
    repeat?: Operation | undefined;
    /** Named by its manifest, dropped or not. */
    snapshot?: SnapshotRow | undefined;
    /** Named by its epoch. */
    run?: Incarnation | undefined;
  };
}
