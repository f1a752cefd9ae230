/**
 * Quotas of an organization, and what it uses. Operators set the quotas; its own keys read them.
 */
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import {
  QUOTA_NAMES,
  type QuotaLimits,
  QuotaLimitsBody,
  type QuotaName,
  QuotaReply,
} from "@torpor/contracts";
import { findOrganizationById, forOrganization, readQuotas, setQuotas } from "@torpor/db";
import type { Authenticator } from "../auth/auth.ts";
import type { Dependencies } from "../deps.ts";
import { unknownResource } from "../http/errors.ts";
import { isRowId } from "../http/ids.ts";
import { ERRORS, IdParams } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";

const tags = ["organizations"];
const response = { 200: QuotaReply, ...ERRORS };

type Plugin = FastifyPluginAsyncTypebox<{ deps: Dependencies; auth: Authenticator }>;

export const quotaRoutes: Plugin = async (app, { deps: { db }, auth }) => {
  const existing = async (id: string): Promise<number> => {
    const found = isRowId(id) ? await findOrganizationById(db, Number(id)) : undefined;
    if (found === undefined) throw unknownOrganization(id);
    return found.id;
  };
  const shown = async (organizationId: number, requestId: string) => {
    const { limits, used } = await readQuotas(forOrganization(db, organizationId), organizationId);
    const all = Object.fromEntries(QUOTA_NAMES.map((name) => [name, limits[name] ?? null]));
    return {
      object: "quotas" as const,
      organization_id: organizationId,
      limits: all as Record<QuotaName, number | null>,
      used,
      request_id: requestId,
    };
  };
  const path = "/organizations/:id/quotas";

  const read = { tags, params: IdParams, response };
  app.get(path, { schema: read, config: needs("read", "operator") }, async (request) => {
    const { organizationId, scopes } = auth.ownerOf(request);
    const { id } = request.params;
    // To other keys, the organization does not exist.
    const isAllowed = scopes.includes("operator") || id === String(organizationId);
    if (!isAllowed) throw unknownOrganization(id);
    return await shown(await existing(id), request.id);
  });

  const put = { tags, params: IdParams, body: QuotaLimitsBody, response };
  app.put(path, { schema: put, config: needs("operator") }, async (request) => {
    const id = await existing(request.params.id);
    const { apiKeyId } = auth.ownerOf(request);
    await setQuotas(forOrganization(db, id), id, limitsIn(request.body), `api-key:${apiKeyId}`);
    return await shown(id, request.id);
  });
};

const limitsIn = (body: Partial<Record<QuotaName, number | null>>): QuotaLimits =>
  Object.fromEntries(Object.entries(body).filter(([, limit]) => limit !== null));

const unknownOrganization = (id: string) =>
  unknownResource("organization", id, "GET /v1/organizations lists them.");
