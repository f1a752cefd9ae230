/** Commands for hosts, built from rows. */
import {
  type CommandKind,
  type HostId,
  type Observation,
  type OperationId,
  type SandboxSpec,
  type SnapshotNamed,
  type SnapshotReference,
  snapshotTicket,
  type VmCommand,
} from "@torpor/contracts";
import type { Operation, Sandbox, SnapshotRow } from "./rows.ts";

const SYSTEM_DEADLINE_MS = 600_000;

type CommandedSandbox = Pick<
  Sandbox,
  | "id"
  | "epoch"
  | "opSeq"
  | "templateName"
  | "imageSha256"
  | "vcpu"
  | "memoryMib"
  | "diskMib"
  | "internetAccess"
  | "onHostLoss"
>;

interface Assigned {
  hostId: HostId;
  epoch: number;
  opSeq: number;
  /** The snapshot that the host needs first. */
  snapshot?: SnapshotRow | undefined;
  source?: SnapshotSource | undefined;
}

/** The host that holds the snapshot, if that host lives. */
export interface SnapshotSource {
  id: HostId;
  dataPlaneUrl: string;
  ticketKey: string | null;
}

export function commandFor(
  operation: Operation,
  sandbox: CommandedSandbox,
  assigned: Assigned,
): VmCommand {
  const command = baseCommand(operation.kind, sandbox, {
    ...assigned,
    operationId: operation.id,
    deadlineAt: operation.deadlineAt,
  });
  if (operation.traceId !== null) command.traceId = operation.traceId;
  if (operation.onlyIfIdleForMs !== null) command.onlyIfIdleForMs = operation.onlyIfIdleForMs;
  if (operation.maxBytesPerSecond !== null) command.maxBytesPerSecond = operation.maxBytesPerSecond;
  if (assigned.snapshot !== undefined) {
    const { generation, storeKey, manifestSha256 } = assigned.snapshot;
    const named = { sandboxId: sandbox.id, generation, manifestSha256 };
    command.snapshot = {
      generation,
      storeKey,
      manifestSha256,
      ...sourceOf(assigned.source, named),
    };
  }
  return command;
}

function sourceOf(
  source: SnapshotSource | undefined,
  snapshot: SnapshotNamed,
): Partial<SnapshotReference> {
  if (source === undefined) return {};
  const { id, dataPlaneUrl, ticketKey } = source;
  const ticket = ticketKey === null ? {} : { sourceTicket: snapshotTicket(ticketKey, snapshot) };
  return { sourceUrl: dataPlaneUrl, sourceHostId: id, ...ticket };
}

/** Inputs of a decision that are not rows, passed in so that a decision is a pure function. */
export interface Moment {
  now: Date;
  /** Returns a new id with each call. */
  newOperationId: () => OperationId;
}

/** A command that no user requested in this form: clean-up, or a request to back out. */
export function systemCommand(
  kind: CommandKind,
  sandbox: CommandedSandbox,
  hostId: HostId,
  { now, newOperationId }: Moment,
  cancels?: OperationId,
): VmCommand {
  const command = baseCommand(kind, sandbox, {
    hostId,
    epoch: Math.max(1, sandbox.epoch),
    opSeq: Math.max(1, sandbox.opSeq),
    operationId: newOperationId(),
    deadlineAt: new Date(now.getTime() + SYSTEM_DEADLINE_MS),
  });
  if (cancels !== undefined) command.cancels = cancels;
  return command;
}

/**
 * A command about a copy of which the database may have no row, and which its host may hold with
 * another spec. The host uses its own spec; only the id of the sandbox counts here.
 */
export function orphanCommand(
  kind: CommandKind,
  { hostId, sandboxId, epoch, opSeq }: Observation,
  { now, newOperationId }: Moment,
): VmCommand {
  const resources = { vcpu: 1, memoryMib: 1, diskMib: 1 };
  return {
    type: "command",
    version: 1,
    kind,
    hostId,
    operationId: newOperationId(),
    epoch: Math.max(1, epoch),
    opSeq: Math.max(1, opSeq),
    deadlineAt: new Date(now.getTime() + SYSTEM_DEADLINE_MS).toISOString(),
    spec: {
      sandboxId,
      templateName: "",
      imageSha256: "0".repeat(64),
      resources,
      internetAccess: false,
      envVars: {},
    },
  };
}

function baseCommand(
  kind: CommandKind,
  sandbox: CommandedSandbox,
  order: {
    hostId: HostId;
    epoch: number;
    opSeq: number;
    operationId: OperationId;
    deadlineAt: Date;
  },
): VmCommand {
  return {
    type: "command",
    version: 1,
    kind,
    hostId: order.hostId,
    operationId: order.operationId,
    epoch: order.epoch,
    opSeq: order.opSeq,
    deadlineAt: order.deadlineAt.toISOString(),
    spec: specOf(sandbox),
  };
}

function specOf(sandbox: CommandedSandbox): SandboxSpec {
  return {
    sandboxId: sandbox.id,
    templateName: sandbox.templateName,
    imageSha256: sandbox.imageSha256,
    resources: { vcpu: sandbox.vcpu, memoryMib: sandbox.memoryMib, diskMib: sandbox.diskMib },
    internetAccess: sandbox.internetAccess,
    // Only a create's command carries variables: from then on the guest has them on its disk.
    envVars: {},
    onHostLoss: sandbox.onHostLoss,
  };
}
