/** What happened to a sandbox, in order. */
import { type Static, Type } from "typebox";

export const EventResource = Type.Object({
  object: Type.Literal("sandbox_event"),
  sandbox_id: Type.String(),
  seq: Type.Integer(),
  fact: Type.String(),
  from: Type.Union([Type.String(), Type.Null()]),
  to: Type.String(),
  epoch: Type.Integer(),
  operation_id: Type.Optional(Type.String()),
  cause: Type.Optional(Type.Object({ code: Type.String(), message: Type.String() })),
  occurred_at: Type.String(),
});

export type EventResource = Static<typeof EventResource>;

export const EventList = Type.Object({
  object: Type.Literal("list"),
  data: Type.Array(EventResource),
  has_more: Type.Boolean(),
  next_cursor: Type.Union([Type.String(), Type.Null()]),
  url: Type.String(),
  request_id: Type.String(),
});
