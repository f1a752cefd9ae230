/** Schemas that only the gateway uses: operator resources, and the parts that its routes share. */
import { ApiErrorBody } from "@torpor/contracts";
import { type Static, Type } from "typebox";

export const Nullable = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) =>
  Type.Union([schema, Type.Null()]);

/** Query of a list that is read in pages. */
export const PAGE_QUERY = {
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
  cursor: Type.Optional(
    Type.String({ maxLength: 128, description: "`next_cursor` of the page before" }),
  ),
};

/** Fields of a page besides its `data` (page.ts). */
export const PAGE = {
  object: Type.Literal("list"),
  has_more: Type.Boolean(),
  next_cursor: Nullable(Type.String()),
  url: Type.String(),
  request_id: Type.String(),
};

/** Responses that every route may give. */
export const ERRORS = { "4xx": ApiErrorBody, "5xx": ApiErrorBody } as const;

export const IdParams = Type.Object({ id: Type.String() });

/** Headers that a route reads. requester.ts checks them; the schema only describes them. */
export const TermsHeaders = Type.Object({
  "idempotency-key": Type.Optional(
    Type.String({
      description: "Makes the request safe to repeat: the same key gives the same result, once",
    }),
  ),
  prefer: Type.Optional(
    Type.String({
      description:
        "`respond-async`: answer 202 with the operation at once. `wait=<seconds>`: give up sooner than the server would",
    }),
  ),
});

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

export const HealthReply = Type.Object({
  status: Type.String({
    description:
      "`ok`; `degraded` when a part is missing; `draining` (with 503) when this gateway is about to stop",
  }),
  service: Type.String(),
  database: Type.String(),
  bus: Type.String(),
  request_id: Type.String(),
});
