import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { isOperationId, OperationResource } from "@torpor/contracts";
import { findOperation, forOrganization } from "@torpor/db";
import type { Authenticator } from "../auth/auth.ts";
import type { Dependencies } from "../deps.ts";
import { unknownResource } from "../http/errors.ts";
import { ERRORS, IdParams } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { operationView } from "../views/sandbox.ts";

export const operationRoutes: FastifyPluginAsyncTypebox<{
  deps: Dependencies;
  auth: Authenticator;
}> = async (app, { deps, auth }) => {
  app.get(
    "/operations/:id",
    {
      schema: {
        tags: ["operations"],
        params: IdParams,
        response: { 200: OperationResource, ...ERRORS },
      },
      config: needs("read"),
    },
    async (request) => {
      const { id } = request.params;
      const { organizationId } = auth.ownerOf(request);
      const operation = isOperationId(id)
        ? await findOperation(forOrganization(deps.db, organizationId), id)
        : undefined;
      if (operation === undefined || operation.organizationId !== organizationId)
        throw unknownResource("operation", id);
      return { ...operationView(operation), request_id: request.id };
    },
  );
};
