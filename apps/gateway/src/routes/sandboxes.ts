/** Reading sandboxes, and their timeout. */
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import {
  EventList,
  isSandboxId,
  LISTED_STATES,
  SandboxList,
  SandboxResource,
  SetTimeoutBody,
  TimeoutReply,
} from "@torpor/contracts";
import {
  findSandbox,
  findSandboxRow,
  forOrganization,
  listEvents,
  listSandboxes,
  type SandboxView,
  setTimeoutSeconds,
} from "@torpor/db";
import { Type } from "typebox";
import type { Authenticator } from "../auth/auth.ts";
import { decodeCursor, encodeCursor } from "../http/cursor.ts";
import type { Dependencies } from "../deps.ts";
import { sandboxNotFound } from "../http/errors.ts";
import { metadataIn, statesIn } from "../http/list-filter.ts";
import { pageOf } from "../http/page.ts";
import { ERRORS, IdParams } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { eventView, sandboxView } from "../views/sandbox.ts";

const tags = ["sandboxes"];
const reads = needs("read");
const Limit = Type.Integer({ minimum: 1, maximum: 1000, default: 100 });
const Cursor = Type.Optional(
  Type.String({ maxLength: 128, description: "`next_cursor` of the page before" }),
);
const ListQuery = Type.Object({
  limit: Type.Optional(Limit),
  status: Type.Optional(
    Type.String({
      maxLength: 128,
      description: `One or more of ${LISTED_STATES.join(", ")}, with commas between them`,
    }),
  ),
  metadata: Type.Optional(
    Type.Record(Type.String(), Type.String(), {
      description: "`metadata[name]=value`, up to 16 of them: those whose metadata has all",
    }),
  ),
  region: Type.Optional(Type.String({ maxLength: 64 })),
  cursor: Cursor,
});
const EventQuery = Type.Object({ limit: Type.Optional(Limit), cursor: Cursor });
const DEFAULT_PAGE = 100;
const isSequence = (text: string) => /^[0-9]{1,15}$/.test(text);

/** A living sandbox of the organization. Throws the 404. */
export async function livingSandbox(
  deps: Dependencies,
  id: string,
  organizationId: number,
): Promise<SandboxView> {
  const view = isSandboxId(id)
    ? await findSandbox(forOrganization(deps.db, organizationId), id, organizationId)
    : undefined;
  if (view === undefined) throw sandboxNotFound(id);
  return view;
}

export const sandboxRoutes: FastifyPluginAsyncTypebox<{
  deps: Dependencies;
  auth: Authenticator;
}> = async (app, { deps, auth }) => {
  type Request = Parameters<Authenticator["ownerOf"]>[0];
  const organizationOf = (request: Request) => auth.ownerOf(request).organizationId;
  const databaseOf = (request: Request) => forOrganization(deps.db, organizationOf(request));

  const list = { tags, querystring: ListQuery, response: { 200: SandboxList, ...ERRORS } };
  app.get("/sandboxes", { schema: list, config: reads }, async (request) => {
    const { limit = DEFAULT_PAGE, region, cursor } = request.query;
    const states = statesIn(request.query.status);
    const metadata = metadataIn(request.query);
    const afterId = cursor === undefined ? undefined : decodeCursor(cursor, isSandboxId);
    const page = await listSandboxes(databaseOf(request), {
      organizationId: organizationOf(request),
      limit,
      states,
      metadata,
      region,
      afterId,
    });
    const last = page.views.at(-1)?.sandbox.id;
    const next = page.hasMore && last !== undefined ? encodeCursor(last) : null;
    return {
      object: "list" as const,
      data: page.views.map((view) => sandboxView(view, deps.edge)),
      // Never true without a cursor: the SDKs would fetch the first page for ever.
      has_more: next !== null,
      next_cursor: next,
      url: "/v1/sandboxes",
      request_id: request.id,
    };
  });

  const one = { tags, params: IdParams, response: { 200: SandboxResource, ...ERRORS } };
  app.get("/sandboxes/:id", { schema: one, config: reads }, async (request) => {
    const view = await livingSandbox(deps, request.params.id, organizationOf(request));
    return { ...sandboxView(view, deps.edge), request_id: request.id };
  });

  app.get(
    "/sandboxes/:id/events",
    {
      schema: {
        tags,
        params: IdParams,
        querystring: EventQuery,
        response: { 200: EventList, ...ERRORS },
      },
      config: reads,
    },
    async (request) => {
      const { limit = DEFAULT_PAGE, cursor } = request.query;
      const { id } = request.params;
      const afterSeq = cursor === undefined ? 0 : Number(decodeCursor(cursor, isSequence));
      // Deleted sandboxes too: people come here to learn why one ended (S7).
      const db = databaseOf(request);
      const sandbox = isSandboxId(id) ? await findSandboxRow(db, id) : undefined;
      if (sandbox === undefined || sandbox.organizationId !== organizationOf(request))
        throw sandboxNotFound(id);
      const events = await listEvents(db, sandbox.id, limit + 1, afterSeq);
      return pageOf(events, {
        limit,
        keyOf: ({ seq }) => seq,
        view: eventView,
        url: `/v1/sandboxes/${id}/events`,
        requestId: request.id,
      });
    },
  );

  app.put(
    "/sandboxes/:id/timeout",
    {
      schema: {
        tags,
        params: IdParams,
        body: SetTimeoutBody,
        response: { 200: TimeoutReply, ...ERRORS },
      },
      config: needs("lifecycle"),
    },
    async (request) => {
      const { id } = request.params;
      const timeoutSeconds = request.body.timeout_seconds;
      const set = isSandboxId(id)
        ? await setTimeoutSeconds(databaseOf(request), id, organizationOf(request), timeoutSeconds)
        : undefined;
      if (set === undefined) throw sandboxNotFound(id);
      await deps.publishCommitted(set.messages);
      return {
        id,
        timeout_seconds: timeoutSeconds,
        expires_at: set.sandbox.expiresAt?.toISOString() ?? null,
        request_id: request.id,
      };
    },
  );
};
