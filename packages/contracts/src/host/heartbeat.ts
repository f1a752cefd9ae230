/** Heartbeat: subject `torpor.v1.host.<hostId>.beat`, core NATS, not stored; the next supersedes it. */
import { type Static, Type } from "typebox";
import { Compile } from "typebox/compile";
import { type Decoder, decoder } from "../decode.ts";
import { HostId } from "../ids.ts";
import { Observation } from "./observation.ts";

export const Heartbeat = Type.Object({
  type: Type.Literal("heartbeat"),
  version: Type.Literal(1),
  hostId: HostId,
  /** Start of this agent process; a change tells that it restarted. */
  agentStartedAt: Type.String(),
  load: Type.Object({ vms: Type.Integer(), residentBytes: Type.Integer(), diskFreeMib: Type.Integer() }),
  /** Newest observation of sandboxes on this host, at most 200 per beat; a larger host sends them in turn. */
  inventory: Type.Array(Observation, { maxItems: 200 }),
  /** Number of sandboxes on the host and a digest of their (id, epoch, opSeq, revision), so that a reader knows whether it has seen all. */
  inventoryCount: Type.Integer({ minimum: 0 }),
  inventoryDigest: Type.String(),
});
export type Heartbeat = Static<typeof Heartbeat>;

const decodeAny = decoder(Type.Object({ ...Heartbeat.properties, inventory: Type.Array(Type.Unknown(), { maxItems: 200 }) }));
const observation = Compile(Observation);

/** A heartbeat as the control plane takes it: without what only a newer host can say of a sandbox. The others on that host are not to suffer for it. Throws InvalidMessageError. */
export const decodeHeartbeat: Decoder<Heartbeat> = (subject, bytes) => {
  const beat = decodeAny(subject, bytes);
  return { ...beat, inventory: beat.inventory.filter((seen): seen is Observation => observation.Check(seen)) };
};
