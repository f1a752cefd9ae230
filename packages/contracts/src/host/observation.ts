/**
 * Observations: what a host saw. Subject `torpor.v1.host.<hostId>.obs.<state>`; the same shape is
 * an entry of the inventory in a heartbeat, so a lost observation is repeated until the scheduler
 * has it.
 *
 * Order: (epoch, opSeq, revision), compared in this order; only higher ones apply. `revision` is
 * persisted by the host and rises with every observation of the sandbox.
 */
import { type Static, Type } from "typebox";
import { HostId, OperationId, SandboxId } from "../ids.ts";

export const OBSERVED_STATES = ["running", "paused", "stopped", "deleted", "failed"] as const;
export type ObservedState = (typeof OBSERVED_STATES)[number];

/** Why something went wrong; `code` is stable, `message` is for people and says what to do. */
export const Cause = Type.Object({
  code: Type.String(),
  message: Type.String(),
  /** When the same may succeed: it was refused for what else goes on. */
  retryAfterSeconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 3_600 })),
});
export type Cause = Static<typeof Cause>;

export const SnapshotFacts = Type.Object({
  generation: Type.Integer({ minimum: 1 }),
  /** Bytes allocated on disk by memory image and device state. */
  sizeBytes: Type.Integer({ minimum: 0 }),
  manifestSha256: Type.String({ pattern: "^[0-9a-f]{64}$" }),
  /**
   * File systems were synced before the vCPUs stopped: the memory may be dropped without losing
   * files.
   */
  guestSynced: Type.Boolean(),
  /** Key in the shared snapshot store once it is there whole; null until then. */
  storeKey: Type.Union([Type.String(), Type.Null()]),
  driverFingerprint: Type.String(),
});
export type SnapshotFacts = Static<typeof SnapshotFacts>;

/** What a host sees to be wrong with a sandbox that is in its state all the same. */
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
  /** Why the state is what it is, when nobody asked for it. */
  cause: Type.Optional(Cause),
  /** Present while it lasts. */
  condition: Type.Optional(Condition),
  /**
   * The VM stands still and its network is cut, because the control plane said so (`quarantine`).
   */
  quarantined: Type.Optional(Type.Boolean()),
  /**
   * Present while a command is being executed: `state` is then the one before it, and settles
   * nothing.
   */
  busyWith: Type.Optional(OperationId),
  vmm: Type.Optional(
    Type.Object({ pid: Type.Integer(), residentBytes: Type.Integer({ minimum: 0 }) }),
  ),
  /**
   * Of a paused sandbox its snapshot; of a stopped one its disk (none: its host cannot give it to
   * another one before it is stored); of a running one a snapshot that reached the store after it
   * was resumed.
   */
  snapshot: Type.Optional(SnapshotFacts),
  /** Why the snapshot is not in the store and will not get there unless somebody asks again. */
  replicationFailed: Type.Optional(Cause),
  /**
   * In a heartbeat's inventory, while the sandbox is copied to the store: bytes of its files, holes
   * left out.
   */
  replicating: Type.Optional(CopyProgress),
  /** The same while the operation that it is busy with brings it to this host. */
  fetching: Type.Optional(CopyProgress),
  /** Milliseconds per step of the operation, e.g. `{"save_memory": 412}`. */
  timingsMs: Type.Optional(Type.Record(Type.String(), Type.Number())),
  /**
   * In a heartbeat's inventory, of a running sandbox: how long ago the host's data plane saw it
   * used. 0 while a request waits for its answer.
   */
  lastActiveMsAgo: Type.Optional(Type.Integer({ minimum: 0 })),
  observedAt: Type.String(),
});
export type Observation = Static<typeof Observation>;

type Order = Pick<Observation, "epoch" | "opSeq" | "revision">;

/** What a digest of an inventory is made of. */
export type InventoryEntry = Pick<Observation, "sandboxId"> & Order;

/** Positive when `a` is newer than `b`. */
export function compareObservations(a: Order, b: Order): number {
  return a.epoch - b.epoch || a.opSeq - b.opSeq || a.revision - b.revision;
}
