import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { openApiDocument } from "../src/index.ts";

test("docs/openapi.json is what the routes' schemas say (pnpm generate writes it)", async () => {
  const kept = readFileSync(new URL("../../../docs/openapi.json", import.meta.url), "utf8");
  expect(kept).toBe(await openApiDocument());
});
