/**
 * Commands: what a host has to do. Subject `torpor.v1.host.<hostId>.cmd.<kind>`.
 *
 * `(epoch, opSeq)` orders all commands of one sandbox: `epoch` counts incarnations (runs of a VMM),
 * `opSeq` operations. Both only rise. The host persists the highest pair, acknowledges a command to
 * the broker once it is journalled, and refuses lower ones.
 */
import { type Static, Type } from "typebox";
import { OnHostLoss } from "../api/sandbox.ts";
import { HostId, OperationId, SandboxId } from "../ids.ts";
import { SealedVariables } from "./sealed-variables.ts";

/**
 * - `cancel`: the operation named in `cancels` backs out if it has not committed.
 * - `delete`: the sandbox is deleted for good, with its entries in the snapshot store.
 * - `discard`: the host drops its own copy of the sandbox, which lives on elsewhere or never ran
 *   here. The store is not touched, and no observation but `deleted` follows. Ordered only by
 *   epoch: it applies to a copy whose epoch is not above the command's, and never to one whose
 *   vCPUs run at that very epoch.
 * - `quarantine`: the vCPUs are paused and the network is cut, until `unquarantine` or the next
 *   command of the sandbox. Only for a copy of exactly the command's (epoch, opSeq). For these two
 *   and `discard` the host uses its own spec of the sandbox: the control plane may not have it.
 * - `replicate`: the paused or stopped sandbox is copied to the store, in the background. No
 *   operation, and no order of its own: it applies only to the run and state that the control plane
 *   meant. An observation with the store key follows.
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
 * Spec of the sandbox's VM. All fields but `onHostLoss` are the same in every command of a sandbox.
 */
export const SandboxSpec = Type.Object({
  sandboxId: SandboxId,
  templateName: Type.String(),
  imageSha256: Type.String({ pattern: "^[0-9a-f]{64}$" }),
  resources: Resources,
  internetAccess: Type.Boolean(),
  envVars: Type.Record(Type.String(), Type.String()),
  /**
   * `restore`: the fence freezes the VM when the host's lease ends. A run keeps the policy that it
   * began with. Absent in older schedulers: `wait`.
   */
  onHostLoss: Type.Optional(OnHostLoss),
});
export type SandboxSpec = Static<typeof SandboxSpec>;

/** Where a host fetches the snapshot of a paused sandbox, or the disk of a stopped one. */
export const SnapshotReference = Type.Object({
  generation: Type.Integer({ minimum: 1 }),
  /** Key in the snapshot store that all hosts share; null: only on the host's disk. */
  storeKey: Type.Union([Type.String(), Type.Null()]),
  manifestSha256: Type.String({ pattern: "^[0-9a-f]{64}$" }),
  /**
   * Data plane of the host that holds the snapshot, while that host lives. The snapshot is fetched
   * from there, and from the store if that fails.
   */
  sourceUrl: Type.Optional(Type.String()),
  /** Id of that host. Absent in schedulers of 0.1.0. */
  sourceHostId: Type.Optional(HostId),
  /** Ticket for that host (tickets.ts). Absent if that host is of 0.1.0. */
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
   * RFC 3339. After this time, the scheduler ends an uncommitted operation and refuses a commit.
   */
  deadlineAt: Type.String(),
  spec: SandboxSpec,
  /** `create` only: replaces the spec's `envVars`, for a host that has a key to open them. */
  sealedVariables: Type.Optional(SealedVariables),
  /** `resume`, `start` and `stop`. */
  snapshot: Type.Optional(SnapshotReference),
  /** `cancel` only: the executing operation that is to back out if it is not committed. */
  cancels: Type.Optional(OperationId),
  /**
   * `pause` only: back out, with the code SANDBOX_ACTIVE, if the sandbox was used within this time.
   */
  onlyIfIdleForMs: Type.Optional(Type.Integer({ minimum: 1 })),
  /**
   * Rate limit of the copy to the store that a `pause` or `replicate` begins, or of the fetch of a
   * `resume` or `start`.
   */
  maxBytesPerSecond: Type.Optional(Type.Integer({ minimum: 1 })),
  traceId: Type.Optional(Type.String()),
});
export type VmCommand = Static<typeof VmCommand>;

/**
 * A command as a host decodes it. A kind that only a newer control plane knows passes too, is
 * journalled, and ends with UNKNOWN_COMMAND.
 */
export const ReceivedCommand = Type.Object({ ...VmCommand.properties, kind: Type.String() });
