import { expect, test } from "vitest";
import { Recent } from "../src/recent.ts";

test("what was used last is kept, and no more than that", () => {
  const recent = new Recent<number>(2);
  recent.set("a", 1);
  recent.set("b", 2);
  expect(recent.get("a")).toBe(1);
  recent.set("c", 3);
  expect(["a", "b", "c"].map((key) => recent.get(key))).toEqual([1, undefined, 3]);
});

test("what is there is not made again", () => {
  const recent = new Recent<number>(2);
  expect(recent.getOrMake("a", () => 1)).toBe(1);
  expect(recent.getOrMake("a", () => 2)).toBe(1);
});
