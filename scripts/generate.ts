/** Writes every generated file: docs/lifecycle.md and the frozen message schemas. Tests compare them with the code. */
import { mkdirSync, writeFileSync } from "node:fs";
import { frozenSchemas } from "../packages/contracts/src/frozen.ts";
import { renderLifecycle } from "../packages/state-machine/src/render.ts";

const root = new URL("../", import.meta.url);

writeFileSync(new URL("docs/lifecycle.md", root), renderLifecycle());
mkdirSync(new URL("packages/contracts/schemas/", root), { recursive: true });
for (const [name, text] of frozenSchemas()) writeFileSync(new URL(`packages/contracts/schemas/${name}`, root), text);
