/** Heartbeat: subject `torpor.v1.host.<hostId>.beat`, core NATS, not stored; the next supersedes it. */
import { type Static, Type } from "typebox";
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
