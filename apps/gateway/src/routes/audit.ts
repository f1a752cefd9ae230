/** For operators: the audit log. */
import { type AuditEntryResource, AuditList } from "@torpor/contracts";
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { type AuditEntryRow, listAuditEntries } from "@torpor/db";
import { Type } from "typebox";
import { decodeCursor } from "../http/cursor.ts";
import type { Dependencies } from "../deps.ts";
import { pageOf } from "../http/page.ts";
import { ERRORS } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";

const Query = Type.Object({
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
  cursor: Type.Optional(
    Type.String({ maxLength: 128, description: "`next_cursor` of the page before" }),
  ),
  requested_by: Type.Optional(Type.String({ maxLength: 64, description: "`api-key:<id>`" })),
  organization_id: Type.Optional(Type.Integer({ minimum: 1, maximum: 2 ** 31 - 1 })),
});

const DEFAULT_PAGE = 100;
const isEntryId = (text: string) => /^[1-9]\d{0,14}$/.test(text);

type Plugin = FastifyPluginAsyncTypebox<{ deps: Dependencies }>;

export const auditRoutes: Plugin = async (app, { deps: { db } }) => {
  const schema = { tags: ["audit"], querystring: Query, response: { 200: AuditList, ...ERRORS } };
  app.get("/audit", { schema, config: needs("operator") }, async (request) => {
    const { limit = DEFAULT_PAGE, cursor } = request.query;
    const { requested_by: requestedBy, organization_id: organizationId } = request.query;
    const beforeId = cursor === undefined ? undefined : Number(decodeCursor(cursor, isEntryId));
    const filter = { requestedBy, organizationId, limit: limit + 1, beforeId };
    const rows = await listAuditEntries(db, filter);
    return pageOf(rows, {
      limit,
      keyOf: ({ id }) => id,
      view: entryView,
      url: "/v1/audit",
      requestId: request.id,
    });
  });
};

function entryView(entry: AuditEntryRow): AuditEntryResource {
  return {
    object: "audit_entry",
    id: entry.id,
    occurred_at: entry.occurredAt.toISOString(),
    requested_by: entry.requestedBy,
    organization_id: entry.organizationId,
    address: entry.address,
    forwarded_for: entry.forwardedFor,
    method: entry.method,
    path: entry.path,
    resource: entry.resource,
    status: entry.status,
    code: entry.code,
    request_id: entry.requestId,
  };
}
