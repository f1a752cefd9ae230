/** For operators: the organizations, which own keys and sandboxes. */
import {
  CreateOrganizationBody,
  OrganizationList,
  OrganizationListQuery,
  OrganizationReply,
} from "@torpor/contracts";
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { createOrganization, listOrganizations } from "@torpor/db";
import { decodeCursor } from "../http/cursor.ts";
import type { Dependencies } from "../deps.ts";
import { ApiError } from "../http/errors.ts";
import { isRowId } from "../http/ids.ts";
import { pageOf } from "../http/page.ts";
import { ERRORS } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { organizationView } from "../views/key.ts";

const tags = ["organizations"];
const DEFAULT_PAGE = 100;
const config = needs("operator");

type Plugin = FastifyPluginAsyncTypebox<{ deps: Dependencies }>;

export const organizationRoutes: Plugin = async (app, { deps: { db } }) => {
  const response = { 201: OrganizationReply, ...ERRORS };
  const create = { tags, body: CreateOrganizationBody, response };
  app.post("/organizations", { schema: create, config }, async (request, reply) => {
    const { name } = request.body;
    const made = await createOrganization(db, name);
    if (made === undefined)
      throw new ApiError("CONFLICT", `There is an organization '${name}' already.`, {
        details: { field: "name" },
      });
    reply.status(201);
    return { ...organizationView(made), request_id: request.id };
  });

  const querystring = OrganizationListQuery;
  const list = { tags, querystring, response: { 200: OrganizationList, ...ERRORS } };
  app.get("/organizations", { schema: list, config }, async (request) => {
    const { limit = DEFAULT_PAGE, cursor } = request.query;
    const afterId = cursor === undefined ? undefined : Number(decodeCursor(cursor, isRowId));
    const rows = await listOrganizations(db, limit + 1, afterId);
    return pageOf(rows, {
      limit,
      keyOf: ({ id }) => id,
      view: organizationView,
      url: "/v1/organizations",
      requestId: request.id,
    });
  });
};
