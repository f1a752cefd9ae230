/**
 * Writes every generated file: pages of docs/, docs/openapi.json, the versioned message schemas,
 * and the attacks in docs/threat-model.md. Tests compare them with the code.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { openApiDocument } from "../apps/gateway/src/index.ts";
import { versionedSchemas } from "../packages/contracts/src/versioned-schemas.ts";
import { renderLifecycle } from "../packages/state-machine/src/render.ts";
import { withAttacks } from "../tests/system/support/attacks.ts";
import { renderPages } from "./references/pages.ts";
import { readSources } from "./references/sources.ts";

const root = new URL("../", import.meta.url);

writeFileSync(new URL("docs/lifecycle.md", root), renderLifecycle());
writeFileSync(new URL("docs/openapi.json", root), await openApiDocument());
const threatModel = new URL("docs/threat-model.md", root);
writeFileSync(threatModel, withAttacks(readFileSync(threatModel, "utf8")));
for (const [path, text] of renderPages(readSources())) writeFileSync(new URL(path, root), text);
mkdirSync(new URL("packages/contracts/schemas/", root), { recursive: true });
for (const [name, text] of versionedSchemas())
  writeFileSync(new URL(`packages/contracts/schemas/${name}`, root), text);
