/**
 * POST /v1/placements/dry-run: the host on which a sandbox would be placed now. The schedulers
 * reply, with the code that places.
 */
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import {
  DryRunBody,
  type PlacementQuestion,
  type PlacementReply,
  PlacementResource,
} from "@torpor/contracts";
import type { Static } from "typebox";
import type { Authenticator } from "../auth/auth.ts";
import type { Dependencies } from "../deps.ts";
import { ApiError, schedulersSilent } from "../http/errors.ts";
import { checkPlaceable, templateOf, wantedOf } from "../operations/placeable.ts";
import { ERRORS } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { storedFields } from "./create-sandbox.ts";
import { livingSandbox } from "./sandboxes.ts";

const SCHEMA = {
  tags: ["placements"],
  body: DryRunBody,
  response: { 200: PlacementResource, ...ERRORS },
};

export const placementRoutes: FastifyPluginAsyncTypebox<{
  deps: Dependencies;
  auth: Authenticator;
}> = async (app, { deps, auth }) => {
  // The scope of a create or a resume, because the response shows what they would get.
  app.post(
    "/placements/dry-run",
    { schema: SCHEMA, config: needs("lifecycle") },
    async (request) => {
      const about = await questionIn(deps, request.body, auth.ownerOf(request).organizationId);
      const answered = await deps.requestPlacement({ type: "placement", version: 1, about });
      if (answered.kind === "no_answer") throw schedulersSilent(answered.cause);
      return { ...placementView(answered.value), request_id: request.id };
    },
  );
};

/** Throws the error that would refuse the create, the resume or the start itself. */
async function questionIn(
  deps: Dependencies,
  body: Static<typeof DryRunBody>,
  organizationId: number,
): Promise<PlacementQuestion["about"]> {
  if (body.sandbox_id === undefined) {
    const fields = storedFields(body);
    const wanted = wantedOf(deps, fields, await templateOf(deps, fields));
    await checkPlaceable(deps, wanted);
    return { organizationId, ...wanted };
  }
  const { sandbox } = await livingSandbox(deps, body.sandbox_id, organizationId);
  const { id, settledState } = sandbox;
  if (settledState === "paused" || settledState === "stopped") return { sandboxId: id };
  throw new ApiError(
    "CONFLICT",
    `A sandbox that is ${settledState} is not placed anew; ask for one that is paused or stopped.`,
    {
      details: {
        current_state: settledState,
        requested: "placement",
        ...(sandbox.hostId === null ? {} : { host_id: sandbox.hostId }),
      },
    },
  );
}

function placementView(
  reply: PlacementReply,
): Omit<Static<typeof PlacementResource>, "request_id"> {
  const [chosen] = reply.candidates;
  return {
    object: "placement",
    host_id: chosen?.hostId ?? null,
    score: chosen?.score ?? null,
    policy: reply.policy,
    hosts: reply.hosts,
    candidates: reply.candidates.map(({ hostId, score, isLocal }) => ({
      host_id: hostId,
      score,
      is_local: isLocal,
    })),
    candidate_count: reply.candidateCount,
    reasons: reply.reasons,
    ...(reply.message === undefined ? {} : { message: reply.message }),
  };
}
