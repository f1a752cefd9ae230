/**
 * Heartbeat: subject `torpor.v1.host.<hostId>.beat`, core NATS, not stored; the next supersedes it.
 */
import { createHash } from "node:crypto";
import { type Static, Type } from "typebox";
import { Compile } from "typebox/compile";
import { type Decoder, decoder } from "../decode.ts";
import { HostId, OperationId, SandboxId } from "../ids.ts";
import { CopyProgress, type InventoryEntry, Observation } from "./observation.ts";

export const MAX_INVENTORY_PER_BEAT = 200;
export const BEAT_EVERY_MS = 2_000;
/** Of sandboxes in use, in one heartbeat. */
export const MAX_ACTIVITY_PER_BEAT = 1_000;
/** Bounds of what a host may say of its starts. */
export const MAX_STARTS_AT_ONCE = 1_024;
export const MAX_STARTS_WAITING = 10_000;

export const Heartbeat = Type.Object({
  type: Type.Literal("heartbeat"),
  version: Type.Literal(1),
  hostId: HostId,
  /** Start of this agent process; a change tells that it restarted. */
  agentStartedAt: Type.String(),
  load: Type.Object({
    vms: Type.Integer(),
    residentBytes: Type.Integer(),
    diskFreeMib: Type.Integer(),
    /**
     * Creates, starts and resumes that it carries out at once, does now, and has waiting. Absent in
     * agents of before: all at once.
     */
    startsAtOnce: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_STARTS_AT_ONCE })),
    startsRunning: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_STARTS_AT_ONCE })),
    startsWaiting: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_STARTS_WAITING })),
  }),
  /**
   * Observations of the sandboxes on this host: the whole inventory, or with `inventorySince` what
   * is to be reported since that one. A larger host sends a whole inventory in parts, beat by beat;
   * count and digest are those of the whole in any case.
   */
  inventory: Type.Array(Observation, { maxItems: MAX_INVENTORY_PER_BEAT }),
  /**
   * Number of sandboxes and `inventoryDigest` of them, so that a reader knows whether it has seen
   * all.
   */
  inventoryCount: Type.Integer({ minimum: 0 }),
  inventoryDigest: Type.String(),
  /**
   * Digest of the inventory that the control plane has reconciled (LeaseReply); what is not in
   * `inventory` or `gone` is as in that one. Absent: `inventory` is the whole, or a part.
   */
  inventorySince: Type.Optional(Type.String()),
  /**
   * With `inventorySince`: sandboxes of that inventory, or asked for, which are not on this host.
   */
  gone: Type.Optional(Type.Array(SandboxId, { maxItems: MAX_INVENTORY_PER_BEAT })),
  /**
   * Running sandboxes that were used in the last few beats. Absent in agents of before: `inventory`
   * says it of each.
   */
  activity: Type.Optional(
    Type.Array(
      Type.Object({
        sandboxId: SandboxId,
        epoch: Type.Integer({ minimum: 0 }),
        lastActiveMsAgo: Type.Integer({ minimum: 0 }),
      }),
      {
        maxItems: MAX_ACTIVITY_PER_BEAT,
      },
    ),
  ),
  /** Sandboxes that are being copied to the store. Absent in agents of before, as `fetching`. */
  replicating: Type.Optional(
    Type.Array(Type.Object({ sandboxId: SandboxId, ...CopyProgress.properties }), {
      maxItems: MAX_INVENTORY_PER_BEAT,
    }),
  ),
  /** Operations that bring a sandbox to this host. */
  fetching: Type.Optional(
    Type.Array(Type.Object({ operationId: OperationId, ...CopyProgress.properties }), {
      maxItems: MAX_INVENTORY_PER_BEAT,
    }),
  ),
});
export type Heartbeat = Static<typeof Heartbeat>;

/** SHA-256, hex, of (id, epoch, opSeq, revision) of each sandbox, in any order. */
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
 * A heartbeat as the control plane takes it: without what only a newer host can say of a sandbox.
 * The others on that host are not to suffer for it. Throws InvalidMessageError.
 */
export const decodeHeartbeat: Decoder<Heartbeat> = (subject, bytes) => {
  const beat = decodeAny(subject, bytes);
  return withoutSome(
    beat,
    beat.inventory.filter((seen): seen is Observation => observation.Check(seen)),
  );
};

/**
 * A beat of which only these observations are read. Changes that are not all of them are no changes
 * since another inventory any more.
 */
export function withoutSome(
  beat: Omit<Heartbeat, "inventory"> & { inventory: unknown[] },
  inventory: Observation[],
): Heartbeat {
  if (inventory.length === beat.inventory.length) return { ...beat, inventory };
  const { inventorySince: _since, gone: _gone, ...part } = beat;
  return { ...part, inventory };
}
