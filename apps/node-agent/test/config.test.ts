import { describe, expect, test } from "vitest";
import { configFrom, labelsOf } from "../src/config.ts";

describe("HOST_LABELS", () => {
  test.each([
    [undefined, {}],
    ["", {}],
    ["zone=a", { zone: "a" }],
    ["zone=a,gpu=a100,example.com/rack-1=r_1.b", { zone: "a", gpu: "a100", "example.com/rack-1": "r_1.b" }],
    ["zone=a,zone=b", { zone: "b" }],
  ])("%j", (text, labels) => {
    expect(labelsOf(configFrom(text === undefined ? {} : { HOST_LABELS: text }))).toEqual(labels);
  });

  test.each(["zone", "zone=", "=a", "zone=a,", "zone=a b", "zone=a=b", "zone = a", "-zone=a", `zone=${"x".repeat(64)}`])(
    "%j is refused, by the name of the setting",
    (text) => {
      expect(() => configFrom({ HOST_LABELS: text })).toThrow(/HOST_LABELS must be name=value pairs/);
    },
  );
});
