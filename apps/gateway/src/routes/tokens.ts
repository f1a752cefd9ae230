import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { TokenReply } from "@torpor/contracts";
import type { Authenticator } from "../auth.ts";
import type { Dependencies } from "../deps.ts";
import { ERRORS, IdParams } from "../schemas.ts";
import { needs } from "../scopes.ts";
import { livingSandbox } from "./sandboxes.ts";

/** In every state but deleted: a token that is issued while the sandbox is paused works after the resume. Older tokens stay good. */
export const tokenRoutes: FastifyPluginAsyncTypebox<{ deps: Dependencies; auth: Authenticator }> = async (app, { deps, auth }) => {
  app.post(
    "/sandboxes/:id/token/refresh",
    { schema: { tags: ["sandboxes"], params: IdParams, response: { 200: TokenReply, ...ERRORS } }, config: needs("exec") },
    async (request) => {
      const { sandbox } = await livingSandbox(deps, request.params.id, auth.ownerOf(request).organizationId);
      const { token, expiresAt } = await deps.tokens.issue(sandbox.id, sandbox.organizationId);
      return { auth_token: token, token_expires_at: expiresAt.toISOString(), request_id: request.id };
    },
  );
};
