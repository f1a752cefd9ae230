/**
 * Observations: what a host saw. Subject `torpor.v1.host.<hostId>.obs.<state>`. An entry of the
 * inventory in a heartbeat has the same shape, so a lost observation is repeated until a scheduler
 * has it.
 *
 * Order: (epoch, opSeq, revision), compared in this order; only higher ones apply. `revision` is
 * persisted by the host and rises with every observation of the sandbox.
 */
import { type Static, Type } from "typebox";
import { HostId, OperationId, SandboxId } from "../ids.ts";

export const OBSERVED_STATES = ["running", "paused", "stopped", "deleted", "failed"] as const;
export type ObservedState = (typeof OBSERVED_STATES)[number];

/** Why something went wrong; `code` is stable, `message` is for people and contains the remedy. */
export const Cause = Type.Object({
  code: Type.String(),
  message: Type.String(),
  /** When a retry may succeed, if other work was the reason for the refusal. */
  retryAfterSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 3_600 })),
});
export type Cause = Static<typeof Cause>;

export const SnapshotFacts = Type.Object({
  generation: Type.Integer({ minimum: 1 }),
  /** Bytes allocated on disk by memory image and device state. */
  sizeBytes: Type.Integer({ minimum: 0 }),
  manifestSha256: Type.String({ pattern: "^[0-9a-f]{64}$" }),
  /** File systems were synced before the vCPUs were paused: dropping the memory loses no files. */
  guestSynced: Type.Boolean(),
  /** Key in the shared snapshot store once the copy is whole; null until then. */
  storeKey: Type.Union([Type.String(), Type.Null()]),
  driverFingerprint: Type.String(),
});
export type SnapshotFacts = Static<typeof SnapshotFacts>;

/** A problem, seen by the host, that does not change the sandbox's state. */
export const Condition = Type.Object({
  code: Type.Literal("vmm_unresponsive"),
  message: Type.String(),
});
export type Condition = Static<typeof Condition>;

export const CopyProgress = Type.Object({
  bytesDone: Type.Integer({ minimum: 0 }),
  bytesTotal: Type.Integer({ minimum: 0 }),
});

export const Observation = Type.Object({
  type: Type.Literal("observation"),
  version: Type.Literal(1),
  hostId: HostId,
  sandboxId: SandboxId,
  epoch: Type.Integer({ minimum: 0 }),
  opSeq: Type.Integer({ minimum: 0 }),
  revision: Type.Integer({ minimum: 1 }),
  state: Type.Enum(OBSERVED_STATES),
  /** The operation whose outcome this is; absent for what happened by itself (a VMM that died). */
  operation: Type.Optional(
    Type.Object({
      id: OperationId,
      outcome: Type.Union([
        Type.Literal("succeeded"),
        Type.Literal("failed"),
        Type.Literal("cancelled"),
      ]),
      error: Type.Optional(Cause),
    }),
  ),
  /** Why the state is what it is, when no operation led to it. */
  cause: Type.Optional(Cause),
  /** Present while it lasts. */
  condition: Type.Optional(Condition),
  /** The vCPUs are paused and the network is cut, by a command (`quarantine`). */
  quarantined: Type.Optional(Type.Boolean()),
  /**
   * Present while a command runs: `state` is then the one before the command, and completes
   * nothing.
   */
  busyWith: Type.Optional(OperationId),
  vmm: Type.Optional(
    Type.Object({ pid: Type.Integer(), residentBytes: Type.Integer({ minimum: 0 }) }),
  ),
  /**
   * For a paused sandbox, its snapshot. For a stopped one, its disk; absent if the host cannot give
   * the disk to another host before it is stored. For a running one, a snapshot that reached the
   * store after the resume.
   */
  snapshot: Type.Optional(SnapshotFacts),
  /** Why the snapshot is not in the store, and will not get there without another request. */
  replicationFailed: Type.Optional(Cause),
  /**
   * In a heartbeat's inventory, while the sandbox is copied to the store: bytes of its files,
   * without holes.
   */
  replicating: Type.Optional(CopyProgress),
  /** The same, while the operation in `busyWith` fetches the sandbox to this host. */
  fetching: Type.Optional(CopyProgress),
  /** Milliseconds per step of the operation, e.g. `{"save_memory": 412}`. */
  timingsMs: Type.Optional(Type.Record(Type.String(), Type.Number())),
  /**
   * In a heartbeat's inventory, for a running sandbox: how long ago the host's data plane last saw
   * a use. 0 while a request is open.
   */
  lastActiveMsAgo: Type.Optional(Type.Integer({ minimum: 0 })),
  observedAt: Type.String(),
});
export type Observation = Static<typeof Observation>;

type Order = Pick<Observation, "epoch" | "opSeq" | "revision">;

/** Fields that enter the digest of an inventory. */
export type InventoryEntry = Pick<Observation, "sandboxId"> & Order;

/** Positive when `a` is newer than `b`. */
export function compareObservations(a: Order, b: Order): number {
  return a.epoch - b.epoch || a.opSeq - b.opSeq || a.revision - b.revision;
}
