/**
 * Commands: what the scheduler asks a host to do. Subject `torpor.v1.host.<hostId>.cmd.<kind>`.
 *
 * `(epoch, opSeq)` orders all commands of one sandbox: `epoch` counts incarnations (runs of a VMM), `opSeq` operations. Both only rise. The host persists the highest it has
 * seen, acknowledges a command to the broker once it is journalled, and refuses lower ones.
 */
import { type Static, Type } from "typebox";
import { HostId, OperationId, SandboxId } from "../ids.ts";

/**
 * `cancel`: the operation named in `cancels` backs out if it has not committed. `delete`: the sandbox is gone for good, its entries in the snapshot store too. `discard`: drop
 * what this host alone holds of the sandbox (it lives on elsewhere, or never ran here); the store is not touched; no observation but `deleted` follows.
 * `discard` is ordered by epoch alone: it applies to a copy whose epoch is not above the command's, and never to one whose vCPUs run at that very epoch.
 */
export const COMMAND_KINDS = ["create", "pause", "resume", "stop", "start", "delete", "discard", "cancel"] as const;
export type CommandKind = (typeof COMMAND_KINDS)[number];

export const Resources = Type.Object({
  vcpu: Type.Integer({ minimum: 1 }),
  memoryMib: Type.Integer({ minimum: 1 }),
  diskMib: Type.Integer({ minimum: 1 }),
});
export type Resources = Static<typeof Resources>;

/** What a host needs to make the sandbox's VM, identical in every command of a sandbox. */
export const SandboxSpec = Type.Object({
  sandboxId: SandboxId,
  templateName: Type.String(),
  imageSha256: Type.String({ pattern: "^[0-9a-f]{64}$" }),
  resources: Resources,
  internetAccess: Type.Boolean(),
  envVars: Type.Record(Type.String(), Type.String()),
});
export type SandboxSpec = Static<typeof SandboxSpec>;

/** Where the snapshot of a paused sandbox is, for a resume on a host that does not hold it. */
export const SnapshotReference = Type.Object({
  generation: Type.Integer({ minimum: 1 }),
  /** Key in the snapshot store shared by the hosts; null while the snapshot is on its host's disk alone. */
  storeKey: Type.Union([Type.String(), Type.Null()]),
  manifestSha256: Type.String({ pattern: "^[0-9a-f]{64}$" }),
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
  /** RFC 3339. After it an uncommitted operation is ended by the scheduler, and a commit is refused. */
  deadlineAt: Type.String(),
  spec: SandboxSpec,
  /** `resume` only. */
  snapshot: Type.Optional(SnapshotReference),
  /** `cancel` only: the executing operation that is to back out if it is not committed. */
  cancels: Type.Optional(OperationId),
  /** `pause` only: back out, with the code SANDBOX_ACTIVE, unless nothing has used the sandbox for so long. */
  onlyIfIdleForMs: Type.Optional(Type.Integer({ minimum: 1 })),
  traceId: Type.Optional(Type.String()),
});
export type VmCommand = Static<typeof VmCommand>;

/** A command as a host takes it: one of a kind that only a newer control plane knows passes too, is journalled like the others, and answered with UNKNOWN_COMMAND. */
export const ReceivedCommand = Type.Object({ ...VmCommand.properties, kind: Type.String() });
