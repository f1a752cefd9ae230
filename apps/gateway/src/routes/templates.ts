import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { TemplateList, TemplateResource } from "@torpor/contracts";
import { findTemplate, listTemplates } from "@torpor/db";
import { Type } from "typebox";
import type { Dependencies } from "../deps.ts";
import { templatesAreGiven, unknownTemplate } from "../errors.ts";
import { ERRORS, IdParams } from "../schemas.ts";
import { needs } from "../scopes.ts";
import { templateView } from "../views/template.ts";

const tags = ["templates"];
const reads = needs("read");
const Query = Type.Object({ category: Type.Optional(Type.String()), language: Type.Optional(Type.String()) });

export const templateRoutes: FastifyPluginAsyncTypebox<{ deps: Dependencies }> = async (app, { deps }) => {
  const list = { tags, querystring: Query, response: { 200: TemplateList, ...ERRORS } };
  app.get("/templates", { schema: list, config: reads }, async (request) => {
    const rows = await listTemplates(deps.db, request.query);
    return { object: "list" as const, data: rows.map(templateView), has_more: false, url: "/v1/templates", request_id: request.id };
  });

  // Refused to every key, so that nobody looks for one that may.
  const given = { schema: { tags, response: ERRORS }, config: reads };
  app.delete("/templates/:id", given, async () => {
    throw templatesAreGiven();
  });
  for (const path of ["/templates/build", "/templates/files/upload-link"]) {
    app.post(path, given, async () => {
      throw templatesAreGiven();
    });
  }

  const one = { tags, params: IdParams, response: { 200: TemplateResource, ...ERRORS } };
  app.get("/templates/:id", { schema: one, config: reads }, async (request) => {
    const row = await findTemplate(deps.db, request.params.id);
    if (row === undefined)
      throw unknownTemplate(
        request.params.id,
        (await listTemplates(deps.db)).map(({ name }) => name),
      );
    return { ...templateView(row), request_id: request.id };
  });
};
