/** For operators: the hosts, their history, and the requests that take one out of use. */
import {
  DEFAULT_HOSTS,
  DrainBody,
  FindingList,
  FindingParams,
  HostEventList,
  HostEventsQuery,
  type HostId,
  HostList,
  HostListQuery,
  HostParams,
  HostReply,
  isHostId,
  isSandboxId,
  PageQuery,
} from "@torpor/contracts";
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import {
  changeHost,
  type DrainBudget,
  endDrain,
  findHost,
  findHostOverview,
  type HostChanged,
  type HostRow,
  listHostEvents,
  listFindings,
  listHostOverviews,
  requestDiscard,
  requestDrain,
} from "@torpor/db";
import { allowedHostRequests, type HostRequest, transitionHost } from "@torpor/state-machine";
import type { FastifyRequest } from "fastify";
import type { Static } from "typebox";
import type { Authenticator } from "../auth/auth.ts";
import type { Dependencies } from "../deps.ts";
import { findUnplaceable } from "../hosts/drain-check.ts";
import { ApiError, unknownResource } from "../http/errors.ts";
import { futureTime } from "../http/future-time.ts";
import { decodeCursor } from "../http/cursor.ts";
import { pageOf } from "../http/page.ts";
import { ERRORS } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { findingView, hostEventView, hostView } from "../views/host.ts";

const tags = ["hosts"];
const config = needs("operator");
const HOST = { tags, params: HostParams, response: { 200: HostReply, ...ERRORS } };
const MIB = 1024 ** 2;
const DEFAULT_PAGE = 100;

export const hostRoutes: FastifyPluginAsyncTypebox<{
  deps: Dependencies;
  auth: Authenticator;
}> = async (app, { deps, auth }) => {
  const { db } = deps;
  const by = (request: FastifyRequest) => `api-key:${auth.ownerOf(request).apiKeyId}`;
  const existing = async (id: string) => {
    const host = isHostId(id) ? await findHost(db, id) : undefined;
    if (host === undefined) throw unknownHost(id);
    return host;
  };
  const reply = async (request: FastifyRequest, id: string) => {
    const standing = isHostId(id) ? await findHostOverview(db, id) : undefined;
    if (standing === undefined) throw unknownHost(id);
    return { ...hostView(standing), request_id: request.id };
  };

  const list = { tags, querystring: HostListQuery, response: { 200: HostList, ...ERRORS } };
  app.get("/hosts", { schema: list, config }, async (request) => {
    const { limit = DEFAULT_HOSTS, cursor } = request.query;
    const afterId = cursor === undefined ? undefined : decodeCursor(cursor, isHostId);
    const rows = await listHostOverviews(db, limit + 1, afterId);
    return pageOf(rows, {
      limit,
      keyOf: ({ host }) => host.id,
      view: hostView,
      url: "/v1/hosts",
      requestId: request.id,
    });
  });

  app.get(
    "/hosts/:id",
    { schema: HOST, config },
    async (request) => await reply(request, request.params.id),
  );

  const history = {
    tags,
    params: HostParams,
    querystring: HostEventsQuery,
    response: { 200: HostEventList, ...ERRORS },
  };
  app.get("/hosts/:id/events", { schema: history, config }, async (request) => {
    const { id } = await existing(request.params.id);
    const { limit = DEFAULT_PAGE, after } = request.query;
    const events = await listHostEvents(db, id, limit + 1, after);
    // When the newest were requested, the oldest is the one too many.
    const data = (after === undefined ? events.slice(-limit) : events.slice(0, limit)).map(
      hostEventView,
    );
    return {
      object: "list" as const,
      data,
      has_more: events.length > limit,
      url: `/v1/hosts/${id}/events`,
      request_id: request.id,
    };
  });

  const found = {
    tags,
    params: HostParams,
    querystring: PageQuery,
    response: { 200: FindingList, ...ERRORS },
  };
  app.get("/hosts/:id/findings", { schema: found, config }, async (request) => {
    const { id } = await existing(request.params.id);
    const { limit = DEFAULT_PAGE, cursor } = request.query;
    const after = cursor === undefined ? undefined : decodeCursor(cursor, isSandboxId);
    const rows = await listFindings(db, id, limit + 1, after);
    const url = `/v1/hosts/${id}/findings`;
    return pageOf(rows, {
      limit,
      keyOf: ({ sandboxId }) => sandboxId,
      view: findingView,
      url,
      requestId: request.id,
    });
  });

  for (const verb of ["cordon", "uncordon", "retire"] as const) {
    app.post(`/hosts/:id/${verb}`, { schema: HOST, config }, async (request) => {
      const { id } = await existing(request.params.id);
      accept(id, verb, await changeHost(db, id, verb, by(request)));
      return await reply(request, id);
    });
  }

  app.post(
    "/hosts/:id/drain",
    { schema: { ...HOST, body: DrainBody }, config },
    async (request) => {
      const host = await existing(request.params.id);
      const budget = budgetOf(request.body);
      // A drain under way was checked when it began; this request changes its budget.
      if (transitionHost(standingOf(host), "drain").kind === "move")
        await assertAllPlaceable(deps, host);
      accept(host.id, "drain", await requestDrain(db, host.id, budget, by(request)));
      return await reply(request, host.id);
    },
  );

  app.post("/hosts/:id/drain/abort", { schema: HOST, config }, async (request) => {
    const { id } = await existing(request.params.id);
    accept(
      id,
      "abort_drain",
      await endDrain(db, id, { endsAs: "aborted", requestedBy: by(request) }),
    );
    return await reply(request, id);
  });

  app.post(
    "/hosts/:id/findings/:sandbox/discard",
    { schema: { ...HOST, params: FindingParams }, config },
    async (request) => {
      const { id } = await existing(request.params.id);
      const { sandbox } = request.params;
      const requested = isSandboxId(sandbox)
        ? await requestDiscard(db, id, sandbox, by(request))
        : { kind: "not_found" as const };
      if (requested.kind === "not_found")
        throw unknownResource(
          "finding",
          sandbox,
          `GET /v1/hosts/${id} lists the findings of the host.`,
        );
      if (requested.kind === "missing")
        throw new ApiError(
          "CONFLICT",
          "There is nothing to discard: the host does not have this sandbox. Delete the sandbox if it is not needed.",
        );
      return await reply(request, id);
    },
  );
};

const unknownHost = (id: string) => unknownResource("host", id, "GET /v1/hosts lists them.");
const standingOf = (host: HostRow) => ({ state: host.state, before: host.stateBeforeLost });

function budgetOf(body: Static<typeof DrainBody>): DrainBudget {
  const {
    max_parallel: maxParallel,
    max_mib_per_second: mibPerSecond = null,
    deadline = null,
  } = body;
  return {
    maxParallel,
    maxBytesPerSecond: mibPerSecond === null ? null : mibPerSecond * MIB,
    deadlineAt: deadline === null ? null : futureTime("deadline", deadline),
  };
}

async function assertAllPlaceable({ db }: Dependencies, host: HostRow): Promise<void> {
  const unplaceable = await findUnplaceable(db, host);
  if (unplaceable.length === 0) return;
  const what = unplaceable
    .slice(0, MAX_TOLD)
    .map(({ message }) => message)
    .join(" ");
  const instead =
    "Add or uncordon a host that can take them, or delete them first; cordon this host to keep new ones off it meanwhile.";
  throw new ApiError(
    "CONFLICT",
    `Host ${host.id} is the last one for some of its sandboxes. ${what} ${instead}`,
    {
      details: {
        current_state: host.state,
        requested: "drain",
        allowed: ["cordon"],
        stranded: unplaceable.slice(0, MAX_UNPLACEABLE),
      },
    },
  );
}

/** Kinds of sandboxes in the message, and in its details. */
const MAX_TOLD = 5;
const MAX_UNPLACEABLE = 100;

/** The reason why a request has no meaning in a state, and what to do instead. */
const INSTEAD: Partial<Record<HostRequest, Partial<Record<HostRow["state"], string>>>> = {
  uncordon: {
    draining:
      "Abort the drain first (POST …/drain/abort); the host is cordoned then, and can be uncordoned.",
  },
  drain: {
    lost: "Nothing can be moved off a host that is silent. It goes on where it was when the host is back; retire it if it will not come back.",
  },
  retire: {
    ready: "Drain it first, or cordon it if it is empty: until then it may be given sandboxes.",
    draining: "Wait until the drain is done, or abort it; then retire the host.",
  },
  abort_drain: {
    ready: "It is not being drained.",
    cordoned: "It is not being drained.",
    lost: "It was not being drained when it was lost.",
  },
};

/** Returns for a change that was made, or is so already; throws the 4xx for the rest. */
function accept(id: HostId, requested: HostRequest, changed: HostChanged): void {
  if (changed.kind === "moved" || changed.kind === "stay") return;
  if (changed.kind === "not_found") throw unknownHost(id);
  const { host } = changed;
  const details = {
    current_state: host.state,
    requested,
    allowed: allowedHostRequests(standingOf(host)),
  };
  if (changed.kind === "has_sandboxes") {
    const what = `Host ${host.id} still has ${changed.sandboxes} sandbox${changed.sandboxes === 1 ? "" : "es"}`;
    const instead =
      host.state === "lost"
        ? "Delete them, or wait for the host to come back"
        : "Drain the host first";
    throw new ApiError("CONFLICT", `${what}. ${instead}; then retire it.`, {
      details: { ...details, sandboxes: changed.sandboxes },
    });
  }
  const instead =
    host.state === "retired"
      ? "A retired host stays retired; register the machine under a new id."
      : INSTEAD[requested]?.[host.state];
  throw new ApiError(
    "CONFLICT",
    `Host ${host.id} is ${host.state}: ${requested} has no meaning there. ${instead ?? ""}`.trim(),
    {
      details,
    },
  );
}
