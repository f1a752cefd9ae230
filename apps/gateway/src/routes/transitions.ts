/**
 * Pause, resume, stop, start, delete: accepted and awaited; the response has the state that was
 * reached.
 */
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import {
  isSandboxId,
  OperationResource,
  type SandboxId,
  TransitionReply,
  unverifiedSandboxId,
} from "@torpor/contracts";
import { acceptRequest, type AcceptRequest, forOrganization } from "@torpor/db";
import { goesHome } from "@torpor/placement";
import { OPERATION_TARGET, type SandboxRequest } from "@torpor/state-machine";
import { Type } from "typebox";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Authenticator } from "../auth/auth.ts";
import { clientGone } from "../http/client-gone.ts";
import type { Dependencies, GatewayLimits } from "../deps.ts";
import {
  ApiError,
  keyReused,
  operationInProgress,
  sandboxNotFound,
  stopping,
} from "../http/errors.ts";
import { assertReached, assertStillThere } from "../operations/outcome.ts";
import { quotaHeadersOf, quotaRefused } from "../auth/quotas.ts";
import { repeatOf } from "../operations/repeat.ts";
import { limitsOf, prefersAsync, requesterOf } from "../auth/requester.ts";
import { ERRORS, IdParams, TermsHeaders } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { waitForOperation } from "../operations/wait-for-operation.ts";
import { waitForReplica } from "../operations/wait-for-replica.ts";
import { respondAsync } from "./respond-async.ts";

/**
 * Saving and syncing may take longer than a request waits; a repeat of the request joins the
 * operation.
 */
const SAVING_DEADLINE_MS = 300_000;
const DELETE_DEADLINE_MS = 60_000;

const SCHEMA = {
  tags: ["transitions"],
  params: IdParams,
  headers: TermsHeaders,
  response: { 200: TransitionReply, 202: OperationResource, ...ERRORS },
};

const config = needs("lifecycle");
const RUNS: ReadonlySet<SandboxRequest> = new Set(["resume", "start"]);

const PauseQuery = Type.Object({
  wait_for: Type.Optional(
    Type.Enum(["paused", "replicated"], {
      description:
        "replicated: the answer comes once the snapshot is in the store, and survives the loss of its host",
    }),
  ),
});

export const transitionRoutes: FastifyPluginAsyncTypebox<{
  deps: Dependencies;
  auth: Authenticator;
}> = async (app, { deps, auth }) => {
  type Request = FastifyRequest<{ Params: { id: string } }>;
  const answer = (kind: SandboxRequest) => async (request: Request, reply: FastifyReply) => {
    const { id } = request.params;
    const limits = limitsOf(request, deps.limits);
    const requester = requesterOf(request, auth.ownerOf(request), deadlineMs(kind, limits));
    if (!isSandboxId(id)) {
      // Throws the 422 for a key that was sent with another request, before the 404.
      await repeatOf(deps, requester);
      throw sandboxNotFound(id);
    }
    const gone = clientGone(request, reply);
    const db = forOrganization(deps.db, requester.organizationId);
    for (;;) {
      const accepted = accept(id, kind, await acceptRequest(db, id, kind, requester, goesHome));
      const counted = accepted.kind === "accepted" ? accepted : undefined;
      if (RUNS.has(kind))
        reply.headers(await quotaHeadersOf(deps, requester.organizationId, counted));
      if (accepted.kind === "satisfied")
        return { id, status: accepted.state, request_id: request.id };
      const { operation, messages } = accepted;
      await deps.publishCommitted(messages);
      if (!accepted.isNew) await assertStillThere(deps, operation);
      if (prefersAsync(request)) return respondAsync(reply, operation, request.id);
      const waited = await waitForOperation({ ...deps, limits }, accepted, gone);
      if (waited.kind === "stopping") throw stopping();
      if (waited.kind !== "ended")
        throw operationInProgress(operation.id, operation.kind, limits.waitMs);
      // The request joined a pause for idle sandboxes, which failed because the sandbox was not
      // idle. This request pauses any sandbox, so it is accepted again.
      if (waited.operation.error?.code === "SANDBOX_ACTIVE" && !accepted.isNew) continue;
      await assertReached(deps, waited.operation);
      return {
        id,
        status: OPERATION_TARGET[operation.kind],
        operation_id: operation.id,
        request_id: request.id,
      };
    }
  };
  const pause = answer("pause");
  app.post(
    "/sandboxes/:id/pause",
    { schema: { ...SCHEMA, querystring: PauseQuery }, config },
    async (request, reply) => {
      const startedAt = performance.now();
      const paused = await pause(request, reply);
      if (request.query.wait_for !== "replicated" || paused.status !== "paused") return paused;
      const { organizationId } = auth.ownerOf(request);
      const { waitMs, ...others } = limitsOf(request, deps.limits);
      // One limit for both waits.
      const limits = { ...others, waitMs: Math.max(0, waitMs - (performance.now() - startedAt)) };
      await waitForReplica(
        { ...deps, limits },
        { id: unverifiedSandboxId(request.params.id), organizationId },
        clientGone(request, reply),
      );
      return { ...paused, durability: "replicated" as const };
    },
  );
  for (const kind of ["resume", "stop", "start"] as const)
    app.post(`/sandboxes/:id/${kind}`, { schema: SCHEMA, config }, answer(kind));
  app.delete("/sandboxes/:id", { schema: SCHEMA, config }, answer("delete"));
};

function deadlineMs(kind: SandboxRequest, limits: GatewayLimits): number {
  if (kind === "delete") return DELETE_DEADLINE_MS;
  return kind === "resume" || kind === "start" ? limits.placedDeadlineMs : SAVING_DEADLINE_MS;
}

/** Returns what was accepted; throws the 4xx for the rest. */
function accept(
  id: SandboxId,
  requested: SandboxRequest,
  accepted: AcceptRequest,
): Extract<AcceptRequest, { kind: "accepted" | "satisfied" }> {
  switch (accepted.kind) {
    case "accepted":
    case "satisfied":
      return accepted;
    case "not_found":
      throw sandboxNotFound(id);
    case "key_reused":
      throw keyReused();
    case "quota_exceeded":
      throw quotaRefused(accepted);
    case "conflict": {
      const { current, allowed } = accepted;
      throw new ApiError(
        "CONFLICT",
        `A sandbox that is ${current} cannot ${requested}. Allowed: ${allowed.join(", ")}.`,
        {
          details: { current_state: current, requested, allowed },
        },
      );
    }
    case "blocked": {
      const { current, by } = accepted;
      throw new ApiError(
        "CONFLICT",
        `A ${by.kind} is waiting to be carried out already; ask for the ${requested} when it has ended.`,
        {
          details: {
            current_state: current,
            requested,
            allowed: ["delete"],
            blocking_operation: by,
          },
        },
      );
    }
  }
}
