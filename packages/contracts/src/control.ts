/**
 * Requests of a gateway to the schedulers: core request/reply on
 * `torpor.v1.control.ask.<question>`; any scheduler replies. Hosts have no permission for these
 * subjects.
 */
import { type Static, Type } from "typebox";
import { OnHostLoss } from "./api/sandbox.ts";
import { SandboxId } from "./ids.ts";

export const CONTROL_QUESTIONS = ["placement"] as const;
export type ControlQuestion = (typeof CONTROL_QUESTIONS)[number];

/** Where would this sandbox be placed now: a sandbox at rest, or a new one? */
export const PlacementQuestion = Type.Object({
  type: Type.Literal("placement"),
  version: Type.Literal(1),
  about: Type.Union([
    Type.Object({ sandboxId: SandboxId }),
    Type.Object({
      organizationId: Type.Integer(),
      vcpu: Type.Integer(),
      memoryMib: Type.Integer(),
      diskMib: Type.Integer(),
      imageSha256: Type.String(),
      region: Type.String(),
      placementLabels: Type.Record(Type.String(), Type.String()),
      antiAffinity: Type.Union([Type.String(), Type.Null()]),
      onHostLoss: OnHostLoss,
    }),
  ]),
});
export type PlacementQuestion = Static<typeof PlacementQuestion>;

export const PlacementReply = Type.Object({
  policy: Type.String(),
  /** Hosts of the fleet: all but the retired ones. */
  hosts: Type.Integer({ minimum: 0 }),
  /** The best ones, best first; the first is the choice. */
  candidates: Type.Array(
    Type.Object({ hostId: Type.String(), score: Type.Number(), isLocal: Type.Boolean() }),
  ),
  /** Includes candidates that are not listed. */
  candidateCount: Type.Integer({ minimum: 0 }),
  /** Hosts that cannot take it, by reason. */
  reasons: Type.Record(Type.String(), Type.Integer()),
  /** Why there is no candidate. */
  message: Type.Optional(Type.String()),
});
export type PlacementReply = Static<typeof PlacementReply>;
