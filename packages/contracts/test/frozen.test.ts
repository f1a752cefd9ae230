import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { versionedSchemas } from "../src/versioned-schemas.ts";

const folder = new URL("../schemas/", import.meta.url);

describe("frozen message schemas", () => {
  test.each(versionedSchemas())(
    "%s is what the code says; a change is deliberate and goes through `pnpm generate`",
    (name, text) => {
      expect(readFileSync(new URL(name, folder), "utf8")).toBe(text);
    },
  );

  test("no frozen schema is left of a message that is gone", () => {
    expect(readdirSync(folder).toSorted()).toEqual(
      versionedSchemas()
        .map(([name]) => name)
        .toSorted(),
    );
  });
});
