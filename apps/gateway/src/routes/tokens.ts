/** Sandbox tokens: issues one more, or revokes all of a sandbox. */
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { isSandboxId, RevokedTokensReply, TokenReply } from "@torpor/contracts";
import { forOrganization, revokeTokens } from "@torpor/db";
import type { Authenticator } from "../auth/auth.ts";
import type { Dependencies } from "../deps.ts";
import { sandboxNotFound } from "../http/errors.ts";
import { ERRORS, IdParams } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { livingSandbox } from "./sandboxes.ts";

const tags = ["sandboxes"];
type Plugin = FastifyPluginAsyncTypebox<{ deps: Dependencies; auth: Authenticator }>;

/**
 * Works in every state but deleted: a token that is issued while the sandbox is paused works after
 * the resume.
 */
export const tokenRoutes: Plugin = async (app, { deps, auth }) => {
  const refresh = { tags, params: IdParams, response: { 200: TokenReply, ...ERRORS } };
  const path = "/sandboxes/:id/token";
  app.post(`${path}/refresh`, { schema: refresh, config: needs("exec") }, async (request) => {
    const owner = auth.ownerOf(request);
    const { sandbox } = await livingSandbox(deps, request.params.id, owner.organizationId);
    const { token, expiresAt } = await deps.tokens.issue(sandbox, owner);
    const until = expiresAt.toISOString();
    return { auth_token: token, token_expires_at: until, request_id: request.id };
  });

  const revoke = { tags, params: IdParams, response: { 200: RevokedTokensReply, ...ERRORS } };
  const config = needs("lifecycle", "exec");
  app.post(`${path}/revoke`, { schema: revoke, config }, async (request) => {
    const { id } = request.params;
    const { organizationId } = auth.ownerOf(request);
    const db = forOrganization(deps.db, organizationId);
    const revoked = isSandboxId(id) ? await revokeTokens(db, id, organizationId) : undefined;
    if (revoked === undefined) throw sandboxNotFound(id);
    await deps.publishCommitted(revoked.messages);
    const { tokenGeneration } = revoked.sandbox;
    return { id, token_generation: tokenGeneration, request_id: request.id };
  });
};
