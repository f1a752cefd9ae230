/** Writes every generated file: docs/lifecycle.md, docs/openapi.json and the frozen message schemas. Tests compare them with the code. */
import { mkdirSync, writeFileSync } from "node:fs";
import { openApiDocument } from "../apps/gateway/src/index.ts";
import { frozenSchemas } from "../packages/contracts/src/frozen.ts";
import { renderLifecycle } from "../packages/state-machine/src/render.ts";

const root = new URL("../", import.meta.url);

writeFileSync(new URL("docs/lifecycle.md", root), renderLifecycle());
writeFileSync(new URL("docs/openapi.json", root), await openApiDocument());
mkdirSync(new URL("packages/contracts/schemas/", root), { recursive: true });
for (const [name, text] of frozenSchemas()) writeFileSync(new URL(`packages/contracts/schemas/${name}`, root), text);
