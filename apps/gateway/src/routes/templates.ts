/** Templates: any key with the scope reads them, operators make and change them. */
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import {
  CreateTemplateBody,
  TemplateDeleted,
  TemplateList,
  TemplateResource,
  UpdateTemplateBody,
} from "@torpor/contracts";
import {
  createTemplate,
  type Database,
  deleteTemplate,
  findTemplate,
  listTemplates,
  type TemplateFacts,
  type TemplateRow,
  updateTemplate,
} from "@torpor/db";
import { Type } from "typebox";
import type { Dependencies } from "../deps.ts";
import { ApiError, templatesAreNotBuilt, unknownTemplate } from "../http/errors.ts";
import { ERRORS, IdParams } from "../http/schemas.ts";
import { needs } from "../auth/scopes.ts";
import { templateView } from "../views/template.ts";

const tags = ["templates"];
const reads = needs("read");
const operates = needs("operator");
const Query = Type.Object({
  category: Type.Optional(Type.String()),
  language: Type.Optional(Type.String()),
});
const ONE = { tags, params: IdParams, response: { 200: TemplateResource, ...ERRORS } };

type Plugin = FastifyPluginAsyncTypebox<{ deps: Dependencies }>;

export const templateRoutes: Plugin = async (app, { deps: { db } }) => {
  const list = { tags, querystring: Query, response: { 200: TemplateList, ...ERRORS } };
  app.get("/templates", { schema: list, config: reads }, async (request) => {
    const rows = await listTemplates(db, request.query);
    const data = rows.map(templateView);
    const url = "/v1/templates";
    return { object: "list" as const, data, has_more: false, url, request_id: request.id };
  });

  app.get("/templates/:id", { schema: ONE, config: reads }, async (request) => {
    const row = await existing(db, request.params.id);
    return { ...templateView(row), request_id: request.id };
  });

  // Refused for every key, so that no client looks for one that may.
  const given = { schema: { tags, response: ERRORS }, config: reads };
  for (const path of ["/templates/build", "/templates/files/upload-link"]) {
    app.post(path, given, async () => {
      throw templatesAreNotBuilt();
    });
  }

  const create = { tags, body: CreateTemplateBody, response: { 201: TemplateResource, ...ERRORS } };
  app.post("/templates", { schema: create, config: operates }, async (request, reply) => {
    const { name } = request.body;
    const made = await createTemplate(db, name, newFactsIn(request.body));
    if (made === undefined)
      throw new ApiError(
        "CONFLICT",
        `There is a template '${name}' already: change it with PATCH.`,
        {
          details: { field: "name" },
        },
      );
    reply.status(201);
    return { ...templateView(made), request_id: request.id };
  });

  const change = { ...ONE, body: UpdateTemplateBody };
  app.patch("/templates/:id", { schema: change, config: operates }, async (request) => {
    const { id } = await existing(db, request.params.id);
    const row = await updateTemplate(db, id, factsIn(request.body));
    // Deleted in between.
    if (row === undefined) throw await unknown(db, id);
    return { ...templateView(row), request_id: request.id };
  });

  const remove = { tags, params: IdParams, response: { 200: TemplateDeleted, ...ERRORS } };
  app.delete("/templates/:id", { schema: remove, config: operates }, async (request) => {
    const { id } = await existing(db, request.params.id);
    if (!(await deleteTemplate(db, id))) throw await unknown(db, id);
    const deleted = { id, object: "template" as const, deleted: true as const };
    return { ...deleted, request_id: request.id };
  });
};

async function existing(db: Database, nameOrId: string): Promise<TemplateRow> {
  const row = await findTemplate(db, nameOrId);
  if (row === undefined) throw await unknown(db, nameOrId);
  return row;
}

async function unknown(db: Database, nameOrId: string): Promise<ApiError> {
  const known = await listTemplates(db);
  return unknownTemplate(
    nameOrId,
    known.map(({ name }) => name),
  );
}

const DEFAULTS = { description: "", category: "other", language: "" };

function newFactsIn(body: CreateTemplateBody): TemplateFacts {
  const { name: displayName, image_sha256: imageSha256, default_resources: size } = body;
  const { vcpu, memory_mb: memoryMib, disk_mb: diskMib } = size;
  return { displayName, ...DEFAULTS, imageSha256, vcpu, memoryMib, diskMib, ...factsIn(body) };
}

/** The facts that the body has. */
function factsIn(body: UpdateTemplateBody): Partial<TemplateFacts> {
  const { display_name: displayName, description, category, language } = body;
  const { image_sha256: imageSha256, default_resources: size = {} } = body;
  const { vcpu, memory_mb: memoryMib, disk_mb: diskMib } = size;
  const texts = { displayName, description, category, language, imageSha256 };
  const facts = Object.entries({ ...texts, vcpu, memoryMib, diskMib });
  return Object.fromEntries(facts.filter(([, value]) => value !== undefined));
}
