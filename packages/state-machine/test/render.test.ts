import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { renderLifecycle } from "../src/index.ts";

test("docs/lifecycle.md is what the tables say; run `pnpm generate` after changing them", () => {
  expect(readFileSync(new URL("../../../docs/lifecycle.md", import.meta.url), "utf8")).toBe(
    renderLifecycle(),
  );
});
