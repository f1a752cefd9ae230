/** The audit log: what was asked of the API, by whom, and with what result. */
import { type Static, Type } from "typebox";
import { Nullable } from "./page.ts";

export const AuditEntryResource = Type.Object({
  object: Type.Literal("audit_entry"),
  id: Type.Integer(),
  occurred_at: Type.String(),
  requested_by: Nullable(Type.String({ description: "`api-key:<id>`; null: no key that is good" })),
  organization_id: Nullable(Type.Integer()),
  address: Type.String({ description: "Of the connection: behind a balancer, the balancer's" }),
  forwarded_for: Nullable(Type.String({ description: "X-Forwarded-For, as the request has it" })),
  method: Type.String(),
  path: Type.String(),
  resource: Nullable(Type.String({ description: "Id of what was made or acted on" })),
  status: Type.Integer(),
  code: Nullable(Type.String()),
  request_id: Type.String(),
});

export type AuditEntryResource = Static<typeof AuditEntryResource>;

export const AuditList = Type.Object({
  object: Type.Literal("list"),
  data: Type.Array(AuditEntryResource),
  has_more: Type.Boolean(),
  next_cursor: Nullable(Type.String()),
  url: Type.String(),
  request_id: Type.String(),
});
