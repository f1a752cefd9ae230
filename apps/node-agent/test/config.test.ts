import { describe, expect, test } from "vitest";
import { configFrom, hostIdFrom, labelsOf } from "../src/config.ts";

describe("HOST_ID", () => {
  test.each([
    ["Build01", "build01"],
    ["build01.example.com", "build01"],
    ["build_01", "build-01"],
    ["_x", "x"],
    ["x".repeat(64), "x".repeat(63)],
    ["", "host"],
    ["___", "host"],
  ])("of a machine that is called %j", (machineName, hostId) => {
    expect(hostIdFrom(machineName)).toBe(hostId);
    expect(configFrom({ HOST_ID: hostIdFrom(machineName) }).HOST_ID).toBe(hostId);
  });
});

test("a LOG_LEVEL that there is not is refused by name", () => {
  expect(() => configFrom({ LOG_LEVEL: "INFO" })).toThrow(/LOG_LEVEL/);
});

test.each(["http://", "http://10.0.0.5:94011", "http://10.0.0.5:9401/data", "http://a:b@c:1"])(
  "DATA_PLANE_URL %j is refused where it is set, not by the control plane alone",
  (url) => expect(() => configFrom({ DATA_PLANE_URL: url })).toThrow(/DATA_PLANE_URL/),
);

describe("HOST_LABELS", () => {
  test.each([
    [undefined, {}],
    ["", {}],
    ["zone=a", { zone: "a" }],
    [
      "zone=a,gpu=a100,example.com/rack-1=r_1.b",
      { zone: "a", gpu: "a100", "example.com/rack-1": "r_1.b" },
    ],
    ["zone=a,zone=b", { zone: "b" }],
  ])("%j", (text, labels) => {
    expect(labelsOf(configFrom(text === undefined ? {} : { HOST_LABELS: text }))).toEqual(labels);
  });

  test.each([
    "zone",
    "zone=",
    "=a",
    "zone=a,",
    "zone=a b",
    "zone=a=b",
    "zone = a",
    "-zone=a",
    `zone=${"x".repeat(64)}`,
  ])("%j is refused, by the name of the setting", (text) => {
    expect(() => configFrom({ HOST_LABELS: text })).toThrow(/HOST_LABELS must be name=value pairs/);
  });
});
