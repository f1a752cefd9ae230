/** POST /v1/sandboxes/{id}/preview-links: a preview for a browser, which can send no token. */
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { GUEST_AGENT_PORT, PreviewLink, PreviewLinkBody } from "@torpor/contracts";
import type { Authenticator } from "../auth/auth.ts";
import type { Dependencies } from "../deps.ts";
import { withLink } from "../edge/preview-session.ts";
import { invalidRequest } from "../http/errors.ts";
import { ERRORS, IdParams } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { livingSandbox } from "./sandboxes.ts";

const LINK_SECONDS = 300;
const SESSION_SECONDS = 12 * 3600;

const SCHEMA = {
  tags: ["sandboxes"],
  params: IdParams,
  body: PreviewLinkBody,
  response: { 201: PreviewLink, ...ERRORS },
};

/**
 * Works in every state but deleted: a preview that is opened while the sandbox is paused is there
 * once it runs.
 */
export const previewLinkRoutes: FastifyPluginAsyncTypebox<{
  deps: Dependencies;
  auth: Authenticator;
}> = async (app, { deps, auth }) => {
  app.post(
    "/sandboxes/:id/preview-links",
    { schema: SCHEMA, config: needs("exec") },
    async (request, reply) => {
      const { port, path = "/", expires_in_seconds, session_seconds } = request.body;
      if (port === GUEST_AGENT_PORT)
        throw invalidRequest([
          { field: "port", message: "is the sandbox's agent, which takes a token alone" },
        ]);
      const { organizationId, apiKeyId } = auth.ownerOf(request);
      const { sandbox } = await livingSandbox(deps, request.params.id, organizationId);
      const preview = { sandbox, port };
      const { token, expiresAt } = await deps.previewLinks.issue(preview, {
        linkSeconds: expires_in_seconds ?? LINK_SECONDS,
        sessionSeconds: session_seconds ?? SESSION_SECONDS,
        apiKeyId,
      });
      reply.status(201);
      return {
        object: "preview_link" as const,
        url: `${deps.edge.previewOrigin(sandbox, port)}${withLink(path, token)}`,
        sandbox_id: sandbox.id,
        port,
        expires_at: expiresAt.toISOString(),
        request_id: request.id,
      };
    },
  );
};
