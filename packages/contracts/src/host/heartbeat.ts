/**
 * Heartbeat: subject `torpor.v1.host.<hostId>.beat`, core NATS, not stored; the next supersedes it.
 */
import { createHash } from "node:crypto";
import { type Static, Type } from "typebox";
import { Compile } from "typebox/compile";
import { type Decoder, decoder } from "../decode.ts";
import { HostId, OperationId, SandboxId } from "../ids.ts";
import { CopyProgress, type InventoryEntry, Observation } from "./observation.ts";

export const MAX_INVENTORY_PER_HEARTBEAT = 200;
export const HEARTBEAT_EVERY_MS = 2_000;
/** Sandboxes in use that one heartbeat reports. */
export const MAX_ACTIVITY_PER_HEARTBEAT = 1_000;
/** Limits of the numbers of starts that a host reports. */
export const MAX_STARTS_AT_ONCE = 1_024;
export const MAX_STARTS_WAITING = 10_000;

export const Heartbeat = Type.Object({
  type: Type.Literal("heartbeat"),
  version: Type.Literal(1),
  hostId: HostId,
  /** Start of this agent process; a new value means that the agent restarted. */
  agentStartedAt: Type.String(),
  load: Type.Object({
    vms: Type.Integer(),
    residentBytes: Type.Integer(),
    diskFreeMib: Type.Integer(),
    /**
     * Creates, starts and resumes: how many at most at once, how many run, how many wait. Absent in
     * older agents: there is no limit.
     */
    startsAtOnce: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_STARTS_AT_ONCE })),
    startsRunning: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_STARTS_AT_ONCE })),
    startsWaiting: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_STARTS_WAITING })),
  }),
  /**
   * Observations of the sandboxes on this host: the whole inventory, or with `inventorySince` what
   * has to be reported since that one. A larger host sends a whole inventory in parts, one per
   * heartbeat; count and digest are always those of the whole.
   */
  inventory: Type.Array(Observation, { maxItems: MAX_INVENTORY_PER_HEARTBEAT }),
  /**
   * Number of sandboxes and their `inventoryDigest`, by which a reader knows whether all have
   * arrived.
   */
  inventoryCount: Type.Integer({ minimum: 0 }),
  inventoryDigest: Type.String(),
  /**
   * Digest of the inventory that the control plane has reconciled (LeaseReply). What is not in
   * `inventory` or `gone` is as in that one. Absent: `inventory` is the whole, or a part.
   */
  inventorySince: Type.Optional(Type.String()),
  /**
   * With `inventorySince`: sandboxes of that inventory, or requested ones, that are not on this
   * host.
   */
  gone: Type.Optional(Type.Array(SandboxId, { maxItems: MAX_INVENTORY_PER_HEARTBEAT })),
  /**
   * Running sandboxes that were used during the last few heartbeats. Absent in older agents: the
   * use is in `inventory`.
   */
  activity: Type.Optional(
    Type.Array(
      Type.Object({
        sandboxId: SandboxId,
        epoch: Type.Integer({ minimum: 0 }),
        lastActiveMsAgo: Type.Integer({ minimum: 0 }),
      }),
      {
        maxItems: MAX_ACTIVITY_PER_HEARTBEAT,
      },
    ),
  ),
  /** Sandboxes that are being copied to the store. Absent in older agents, as `fetching`. */
  replicating: Type.Optional(
    Type.Array(Type.Object({ sandboxId: SandboxId, ...CopyProgress.properties }), {
      maxItems: MAX_INVENTORY_PER_HEARTBEAT,
    }),
  ),
  /** Operations that fetch a sandbox to this host. */
  fetching: Type.Optional(
    Type.Array(Type.Object({ operationId: OperationId, ...CopyProgress.properties }), {
      maxItems: MAX_INVENTORY_PER_HEARTBEAT,
    }),
  ),
});
export type Heartbeat = Static<typeof Heartbeat>;

/** SHA-256, hex, of (id, epoch, opSeq, revision) of each sandbox; their order does not matter. */
export function inventoryDigest(inventory: readonly InventoryEntry[]): string {
  const lines = inventory
    .map((seen) => `${seen.sandboxId} ${seen.epoch} ${seen.opSeq} ${seen.revision}`)
    .toSorted();
  return createHash("sha256").update(lines.join("\n")).digest("hex");
}

const decodeAny = decoder(
  Type.Object({
    ...Heartbeat.properties,
    inventory: Type.Array(Type.Unknown(), { maxItems: 200 }),
  }),
);
const observation = Compile(Observation);

/**
 * Decodes a heartbeat without the observations that only a newer version understands, so that the
 * other sandboxes on that host do not suffer. Throws InvalidMessageError.
 */
export const decodeHeartbeat: Decoder<Heartbeat> = (subject, bytes) => {
  const heartbeat = decodeAny(subject, bytes);
  return withoutSome(
    heartbeat,
    heartbeat.inventory.filter((seen): seen is Observation => observation.Check(seen)),
  );
};

/**
 * The heartbeat with only these observations. If some are missing, the rest no longer counts as the
 * changes since an inventory.
 */
export function withoutSome(
  heartbeat: Omit<Heartbeat, "inventory"> & { inventory: unknown[] },
  inventory: Observation[],
): Heartbeat {
  if (inventory.length === heartbeat.inventory.length) return { ...heartbeat, inventory };
  const { inventorySince: _since, gone: _gone, ...part } = heartbeat;
  return { ...part, inventory };
}
