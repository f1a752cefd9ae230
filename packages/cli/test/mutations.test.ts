import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { MUTATIONS } from "../../../tests/mutations/mutations.ts";

const ROOT = join(import.meta.dirname, "../../..");

test.each(MUTATIONS)("the text that $name is there once, and what guards it exists", (mutation) => {
  const { file, find, guards } = mutation;
  expect(readFileSync(join(ROOT, file), "utf8").split(find)).toHaveLength(2);
  expect(guards.filter((guard) => !existsSync(join(ROOT, guard)))).toEqual([]);
});
