/** For operators: the hosts, and keeping new sandboxes off one. */
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { type HostRow, listHosts, setCordoned } from "@torpor/db";
import type { Dependencies } from "../deps.ts";
import { ApiError, unknownResource } from "../errors.ts";
import { isHostId } from "../ids.ts";
import { ERRORS, HostList, HostReply, IdParams } from "../schemas.ts";
import { hostView } from "../views/host.ts";

const tags = ["hosts"];

export const hostRoutes: FastifyPluginAsyncTypebox<{ deps: Dependencies }> = async (app, { deps }) => {
  app.get("/hosts", { schema: { tags, response: { 200: HostList, ...ERRORS } } }, async (request) => {
    const rows = await listHosts(deps.db);
    return { object: "list" as const, data: rows.map(hostView), has_more: false, url: "/v1/hosts", request_id: request.id };
  });

  const verbs = [
    ["cordon", true],
    ["uncordon", false],
  ] as const;
  for (const [verb, cordoned] of verbs) {
    app.post(`/hosts/:id/${verb}`, { schema: { tags, params: IdParams, response: { 200: HostReply, ...ERRORS } } }, async (request) => {
      const { id } = request.params;
      const host = isHostId(id) ? await setCordoned(deps.db, id, cordoned) : undefined;
      if (host === undefined) throw unknownResource("host", id, "GET /v1/hosts lists them.");
      if (!isAsAsked(host, cordoned)) {
        throw new ApiError("CONFLICT", `Host ${id} is ${host.state}: ${verb} has no meaning there.`, {
          details: { current_state: host.state, requested: verb },
        });
      }
      return { ...hostView(host), request_id: request.id };
    });
  }
};

/** A lost host is what was asked for as soon as it comes back. */
function isAsAsked(host: HostRow, cordoned: boolean): boolean {
  const wanted = cordoned ? "cordoned" : "ready";
  return host.state === wanted || (host.state === "lost" && host.stateBeforeLost === wanted);
}
