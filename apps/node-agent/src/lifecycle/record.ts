/**
 * What a host knows of one sandbox (vm.json), and how that changes. A record is never changed in
 * place: each function returns the record after a change. The files are in vm-store.ts.
 */
import {
  Cause,
  Condition,
  OperationId,
  ReceivedCommand,
  SandboxSpec,
  SnapshotFacts,
  type VmCommand,
} from "@torpor/contracts";
import { given } from "@torpor/service";
import { type Static, Type } from "typebox";
import type { Outcome } from "./outcome.ts";

const Count = Type.Integer({ minimum: 0 });

/** The fields of every state. */
const Shared = Type.Object({
  spec: SandboxSpec,
  kernelCmdline: Type.String(),
  /** Name of the VM's resources on this host; absent: the sandbox id. */
  hostName: Type.Optional(Type.String()),
  /** Highest (epoch, opSeq) seen; lower commands are stale. */
  epoch: Count,
  opSeq: Count,
  /** Revision of the newest observation. */
  revision: Count,
  /** Generation of the newest snapshot; only rises. */
  generation: Count,
  /** The operation that led to the state; absent: the state came by itself. */
  operation: Type.Optional(
    Type.Object({
      id: OperationId,
      outcome: Type.Enum(["succeeded", "failed", "cancelled"]),
      error: Type.Optional(Cause),
    }),
  ),
  timingsMs: Type.Optional(Type.Record(Type.String(), Type.Number())),
  observedAt: Type.String(),
  /** Key of the guest agent's control API; only this host's agent and the guest have it. */
  agentKey: Type.String(),
  machineId: Type.String(),
});

const Running = Type.Object({
  state: Type.Literal("running"),
  /** A snapshot that reached the store after the resume from it. */
  snapshot: Type.Optional(SnapshotFacts),
  /** Health problem of the live VMM. */
  condition: Type.Optional(Condition),
  /** The vCPUs are paused, and the data plane does not route to the VM. */
  quarantined: Type.Optional(Type.Literal(true)),
});

/** What a sandbox at rest has of its copy in the store. */
const copying = {
  /** Requested copy to the store that is not done yet. */
  replication: Type.Optional(
    Type.Object({ maxBytesPerSecond: Type.Optional(Type.Integer({ minimum: 1 })) }),
  ),
  /** Reason why the copy failed; it is not tried again by itself. */
  replicationFailed: Type.Optional(Cause),
};

const Paused = Type.Object({
  state: Type.Literal("paused"),
  /** Absent: this host has no copy of the sandbox, which rests elsewhere. */
  snapshot: Type.Optional(SnapshotFacts),
  ...copying,
});

const Stopped = Type.Object({
  state: Type.Literal("stopped"),
  /** Name of the disk. Absent: the disk cannot be read, or is elsewhere. */
  snapshot: Type.Optional(SnapshotFacts),
  /** Why the VM ended, when no operation asked for it. */
  cause: Type.Optional(Cause),
  ...copying,
});

/** Only the order of the sandbox's commands is left, or no command has ended yet (revision 0). */
const Over = Type.Object({ state: Type.Enum(["deleted", "failed"]) });

const VmState = Type.Union([Running, Paused, Stopped, Over]);
type VmState = Static<typeof VmState>;

export const VmRecord = Type.Intersect([Shared, VmState]);
export type VmRecord = Static<typeof Shared> & VmState;

/** What a host takes over from the record of the host that had the sandbox before. */
export const Origin = Type.Object({
  kernelCmdline: Type.String({ maxLength: 2_048, pattern: "^[ -~]*$" }),
  agentKey: Type.String({ pattern: "^[0-9a-f]{64}$" }),
  machineId: Type.String({ pattern: "^[0-9a-f]{32}$" }),
});
export type Origin = Static<typeof Origin>;

/** The running operation. Absent: none. */
export const Journal = Type.Object({
  command: ReceivedCommand,
  /** State before the operation. */
  from: Type.Enum(["running", "paused", "stopped", "deleted", "failed"]),
  guestSynced: Type.Optional(Type.Boolean()),
});
export type Journal = Omit<Static<typeof Journal>, "command"> & { command: VmCommand };

/** Snapshot of a paused sandbox, named disk of a stopped one, or what a running one left. */
export function snapshotOf(record: VmRecord): SnapshotFacts | undefined {
  return "snapshot" in record ? record.snapshot : undefined;
}

export function isQuarantined(record: VmRecord): boolean {
  return record.state === "running" && record.quarantined === true;
}

/** True if only the order of its commands is left of the sandbox on this host. */
export function isGone({ state, revision }: Pick<VmRecord, "state" | "revision">): boolean {
  return revision > 0 && (state === "deleted" || state === "failed");
}

/** A newer command of the sandbox is known (command-runner.ts, SV1). */
export function accepted(record: VmRecord, command: VmCommand): VmRecord {
  return {
    ...record,
    ...orderAfter(record, command),
    // A discard may name an orphan, whose spec the control plane does not know.
    spec: command.kind === "discard" ? record.spec : command.spec,
  };
}

/** The operation has ended: the record enters the state that it left. */
export function next(
  record: VmRecord,
  { command, from }: Journal,
  outcome: Outcome,
  timingsMs: Record<string, number>,
): VmRecord {
  const shared = {
    ...sharedOf(record),
    ...orderAfter(record, command),
    generation: outcome.generation ?? record.generation,
    timingsMs,
    operation: { id: command.operationId, ...endOf(outcome) },
  };
  const { state } = outcome;
  const isKept =
    outcome.isElsewhere !== true && (state === "paused" || outcome.isUntouched === true);
  const snapshot = outcome.snapshot ?? (isKept ? snapshotOf(record) : undefined);
  const resting = state === from ? copyingOf(record) : {};
  switch (state) {
    case "running":
      return given({ ...shared, state, snapshot, condition: conditionOf(record) });
    case "paused":
      return given({ ...shared, state, snapshot, ...resting, ...copyAfter(command) });
    case "stopped":
      return given({ ...shared, state, snapshot, cause: outcome.cause, ...resting });
    case "deleted":
    case "failed":
      return { ...shared, state };
  }
}

/** The VMM ended without a command. A snapshot is of an earlier run: the disk has changed since. */
export function endedByItself(record: VmRecord, cause: Cause): VmRecord {
  return { ...byItself(record), state: "stopped", cause };
}

/** The live VMM has a health problem, or has none any more. */
export function withCondition(record: VmRecord, condition: Condition | undefined): VmRecord {
  if (record.state !== "running") return record;
  const { snapshot, quarantined } = record;
  return given({ ...byItself(record), state: "running", snapshot, quarantined, condition });
}

export function withQuarantine(record: VmRecord, isHeld: boolean): VmRecord {
  if (record.state !== "running") return record;
  const { snapshot, condition } = record;
  const quarantined = isHeld ? true : undefined;
  return given({ ...byItself(record), state: "running", snapshot, condition, quarantined });
}

/** The quarantine ends because a command continues with the VM. */
export function released(record: VmRecord): VmRecord {
  if (record.state !== "running") return record;
  const { quarantined: _ended, ...rest } = record;
  return rest;
}

/** The disk of a stopped sandbox has that name; undefined: it cannot be read. */
export function named(record: VmRecord, disk: SnapshotFacts | undefined): VmRecord {
  if (record.state !== "stopped") return record;
  return given({ ...record, snapshot: disk });
}

/** The snapshot or disk of another host has been installed here. */
export function fetched(
  record: VmRecord,
  origin: Origin,
  snapshot: SnapshotFacts,
  state: "paused" | "stopped",
): VmRecord {
  const { agentKey, machineId, kernelCmdline } = origin;
  const { generation } = snapshot;
  const shared = { ...sharedOf(record), agentKey, machineId, kernelCmdline, generation };
  return { ...shared, state, snapshot };
}

/** A copy of the sandbox at rest to the store was requested. */
export function replicating(record: VmRecord, maxBytesPerSecond: number | undefined): VmRecord {
  if (record.state !== "paused" && record.state !== "stopped") return record;
  const { replicationFailed: _before, ...rest } = record;
  return { ...rest, replication: given({ maxBytesPerSecond }) };
}

/** The copy is in the store. */
export function stored(record: VmRecord, snapshot: SnapshotFacts): VmRecord {
  const { generation } = snapshot;
  if (record.state === "running") return { ...record, generation, snapshot };
  if (record.state !== "paused" && record.state !== "stopped") return record;
  const { replication: _done, replicationFailed: _before, ...rest } = record;
  return { ...rest, generation, snapshot };
}

export function notStored(record: VmRecord, replicationFailed: Cause): VmRecord {
  return record.state === "paused" || record.state === "stopped"
    ? { ...record, replicationFailed }
    : record;
}

/** SV1: (epoch, opSeq) only rises. */
function orderAfter(record: VmRecord, command: VmCommand): Pick<VmRecord, "epoch" | "opSeq"> {
  return {
    epoch: Math.max(record.epoch, command.epoch),
    opSeq: Math.max(record.opSeq, command.opSeq),
  };
}

const SHARED_FIELDS = new Set(Object.keys(Shared.properties));

/** The record without what only its state has. */
function sharedOf(record: VmRecord): Static<typeof Shared> {
  return Object.fromEntries(
    Object.entries(record).filter(([name]) => SHARED_FIELDS.has(name)),
  ) as Static<typeof Shared>;
}

/** The same, for a change that no operation made. */
function byItself(record: VmRecord): Static<typeof Shared> {
  const { operation: _ofBefore, ...rest } = sharedOf(record);
  return rest;
}

function conditionOf(record: VmRecord): Condition | undefined {
  return record.state === "running" ? record.condition : undefined;
}

function copyingOf(record: VmRecord): Pick<Static<typeof Paused>, keyof typeof copying> {
  if (record.state !== "paused" && record.state !== "stopped") return {};
  const { replication, replicationFailed } = record;
  return given({ replication, replicationFailed });
}

/** A pause says how fast it is copied; the copy to the store begins without another command. */
function copyAfter({
  kind,
  maxBytesPerSecond,
}: VmCommand): Pick<Static<typeof Paused>, "replication"> {
  return kind === "pause" && maxBytesPerSecond !== undefined
    ? { replication: { maxBytesPerSecond } }
    : {};
}

function endOf({ failed, cancelled }: Outcome): Omit<NonNullable<VmRecord["operation"]>, "id"> {
  if (failed === undefined) return { outcome: "succeeded" };
  return { outcome: cancelled === true ? "cancelled" : "failed", error: failed };
}
