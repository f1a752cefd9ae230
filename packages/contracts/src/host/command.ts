/**
 * Commands: what the scheduler asks a host to do. Subject `torpor.v1.host.<hostId>.cmd.<kind>`.
 *
 * `(epoch, opSeq)` orders all commands of one sandbox: `epoch` counts incarnations (runs of a VMM),
 * `opSeq` operations. Both only rise. The host persists the highest it has seen, acknowledges a
 * command to the broker once it is journalled, and refuses lower ones.
 */
import { type Static, Type } from "typebox";
import { OnHostLoss } from "../api/sandbox.ts";
import { HostId, OperationId, SandboxId } from "../ids.ts";
import { SealedVariables } from "./sealed-variables.ts";

/**
 * `cancel`: the operation named in `cancels` backs out if it has not committed. `delete`: the
 * sandbox is gone for good, its entries in the snapshot store too. `discard`: drop what this host
 * alone holds of the sandbox (it lives on elsewhere, or never ran here); the store is not touched;
 * no observation but `deleted` follows. `discard` is ordered by epoch alone: it applies to a copy
 * whose epoch is not above the command's, and never to one whose vCPUs run at that very epoch.
 * `quarantine`: the vCPUs stand still and nothing goes in or out, until `unquarantine` or the next
 * command of the sandbox; for a copy of exactly the command's (epoch, opSeq). In these two and in
 * `discard` the host goes by its own spec of the sandbox: the control plane may not have it.
 * `replicate`: copy the paused or stopped sandbox to the store, in the background; no operation,
 * and no order of its own: it applies to the run and state that the control plane meant, and to
 * nothing else. An observation with the store key follows when it is there.
 */
export const COMMAND_KINDS = [
  "create",
  "pause",
  "resume",
  "stop",
  "start",
  "delete",
  "discard",
  "quarantine",
  "unquarantine",
  "cancel",
  "replicate",
] as const;
export type CommandKind = (typeof COMMAND_KINDS)[number];

export const Resources = Type.Object({
  vcpu: Type.Integer({ minimum: 1 }),
  memoryMib: Type.Integer({ minimum: 1 }),
  diskMib: Type.Integer({ minimum: 1 }),
});
export type Resources = Static<typeof Resources>;

/**
 * What a host needs to make the sandbox's VM. All but `onHostLoss` is identical in every command of
 * a sandbox.
 */
export const SandboxSpec = Type.Object({
  sandboxId: SandboxId,
  templateName: Type.String(),
  imageSha256: Type.String({ pattern: "^[0-9a-f]{64}$" }),
  resources: Resources,
  internetAccess: Type.Boolean(),
  envVars: Type.Record(Type.String(), Type.String()),
  /**
   * `restore`: the fence freezes it when the host's lease ends. A run keeps what it began with.
   * Absent in schedulers of before: `wait`.
   */
  onHostLoss: Type.Optional(OnHostLoss),
});
export type SandboxSpec = Static<typeof SandboxSpec>;

/**
 * Where the snapshot of a paused sandbox is, or the disk of a stopped one, for a host that does not
 * hold it.
 */
export const SnapshotReference = Type.Object({
  generation: Type.Integer({ minimum: 1 }),
  /**
   * Key in the snapshot store shared by the hosts; null while the snapshot is on its host's disk
   * alone.
   */
  storeKey: Type.Union([Type.String(), Type.Null()]),
  manifestSha256: Type.String({ pattern: "^[0-9a-f]{64}$" }),
  /**
   * Data plane of the host that holds it, while that host lives: it is fetched from there, and from
   * the store where that fails.
   */
  sourceUrl: Type.Optional(Type.String()),
  /** Which host that is. Absent in schedulers of 0.1.0. */
  sourceHostId: Type.Optional(HostId),
  /** What it asks for (tickets.ts). Absent where it is of 0.1.0. */
  sourceTicket: Type.Optional(Type.String({ pattern: "^[0-9a-f]{64}$" })),
});
export type SnapshotReference = Static<typeof SnapshotReference>;

export const VmCommand = Type.Object({
  type: Type.Literal("command"),
  version: Type.Literal(1),
  kind: Type.Enum(COMMAND_KINDS),
  hostId: HostId,
  operationId: OperationId,
  epoch: Type.Integer({ minimum: 1 }),
  opSeq: Type.Integer({ minimum: 1 }),
  /**
   * RFC 3339. After it an uncommitted operation is ended by the scheduler, and a commit is refused.
   */
  deadlineAt: Type.String(),
  spec: SandboxSpec,
  /**
   * `create` only: the spec's `envVars`, for a host that has a key for them, and then not there.
   */
  sealedVariables: Type.Optional(SealedVariables),
  /** `resume`, `start` and `stop`. */
  snapshot: Type.Optional(SnapshotReference),
  /** `cancel` only: the executing operation that is to back out if it is not committed. */
  cancels: Type.Optional(OperationId),
  /**
   * `pause` only: back out, with the code SANDBOX_ACTIVE, unless nothing has used the sandbox for
   * so long.
   */
  onlyIfIdleForMs: Type.Optional(Type.Integer({ minimum: 1 })),
  /**
   * How fast the copy to the store may go that a `pause` or `replicate` begins, or what a `resume`
   * or `start` brings here.
   */
  maxBytesPerSecond: Type.Optional(Type.Integer({ minimum: 1 })),
  traceId: Type.Optional(Type.String()),
});
export type VmCommand = Static<typeof VmCommand>;

/**
 * A command as a host takes it: one of a kind that only a newer control plane knows passes too, is
 * journalled like the others, and answered with UNKNOWN_COMMAND.
 */
export const ReceivedCommand = Type.Object({ ...VmCommand.properties, kind: Type.String() });
