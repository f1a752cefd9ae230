/** PATCH /v1/sandboxes/{id}: policies and metadata, in every state but deleted. */
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import {
  isSandboxId,
  MAX_METADATA_NAMES,
  PatchSandboxBody,
  SandboxResource,
} from "@torpor/contracts";
import { forOrganization, patchSandbox, type SandboxChange } from "@torpor/db";
import type { Authenticator } from "../auth/auth.ts";
import type { Dependencies } from "../deps.ts";
import { invalidRequest, sandboxNotFound } from "../http/errors.ts";
import { checkMetadata } from "../http/metadata.ts";
import { ERRORS, IdParams } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { sandboxView } from "../views/sandbox.ts";
import { livingSandbox } from "./sandboxes.ts";

const FIELDS = [
  "auto_pause",
  "auto_resume",
  "preview_access",
  "preview_host",
  "on_host_loss",
  "metadata",
] as const;
const SCHEMA = {
  tags: ["sandboxes"],
  params: IdParams,
  body: PatchSandboxBody,
  response: { 200: SandboxResource, ...ERRORS },
};

export const patchSandboxRoute: FastifyPluginAsyncTypebox<{
  deps: Dependencies;
  auth: Authenticator;
}> = async (app, { deps, auth }) => {
  app.patch("/sandboxes/:id", { schema: SCHEMA, config: needs("lifecycle") }, async (request) => {
    const { id } = request.params;
    const { organizationId } = auth.ownerOf(request);
    const change = changeIn(request.body);
    if (!isSandboxId(id)) throw sandboxNotFound(id);
    const patched = await patchSandbox(
      forOrganization(deps.db, organizationId),
      id,
      organizationId,
      change,
    );
    if (patched.kind === "not_found") throw sandboxNotFound(id);
    if (patched.kind === "too_much_metadata")
      throw invalidRequest([
        {
          field: "metadata",
          message: `must not hold more than ${MAX_METADATA_NAMES} names after the change`,
        },
      ]);
    await deps.publishCommitted(patched.messages);
    const view = await livingSandbox(deps, id, organizationId);
    return { ...sandboxView(view, deps.edge), request_id: request.id };
  });
};

/** Throws the 400 for a change that changes nothing, or that the schema cannot check. */
function changeIn(body: PatchSandboxBody): SandboxChange {
  if (FIELDS.every((field) => body[field] === undefined))
    throw invalidRequest(
      [{ field: "body", message: `must hold one of ${FIELDS.join(", ")}` }],
      "MISSING_PARAMETER",
    );
  const {
    auto_pause: autoPause,
    auto_resume: autoResume,
    on_host_loss: onHostLoss,
    metadata,
  } = body;
  const { preview_access: previewAccess, preview_host: previewHost } = body;
  checkMetadata(metadata ?? {}, (value) => value === null || typeof value === "string");
  const idleSeconds = autoPause === undefined ? undefined : (autoPause?.idle_seconds ?? null);
  return {
    autoPauseIdleSeconds: idleSeconds,
    autoResume,
    previewAccess,
    previewHost,
    onHostLoss,
    metadata,
  };
}
