import { describe, expect, test } from "vitest";
import { testOptions } from "../src/test/options.ts";

const options = (...args: string[]) => testOptions(args, () => 7);

describe("what torpor test is asked for", () => {
  test("without arguments: the checks and every layer, without what is exhaustive", () => {
    expect(options()).toEqual({
      isVerified: true,
      layers: ["unit", "integration", "system", "conformance", "vm"],
      isExhaustive: false,
      seed: 7,
    });
  });

  test("layers in the order in which they run, whatever the order of the arguments", () => {
    expect(options("vm", "unit")).toMatchObject({ isVerified: false, layers: ["unit", "vm"] });
    expect(options("verify")).toMatchObject({ isVerified: true, layers: [] });
  });

  test("all of it, in parts, again with a seed", () => {
    expect(options("--all", "--shard", "2/3", "--seed", "42")).toMatchObject({
      isExhaustive: true,
      shard: { index: 2, count: 3 },
      seed: 42,
    });
  });

  test("only what a change can reach: no checks", () => {
    expect(options("--changed")).toMatchObject({
      isVerified: false,
      layers: ["unit", "integration"],
      changedSince: "HEAD",
    });
    expect(options("--changed", "--since", "main", "vm")).toMatchObject({
      layers: ["vm"],
      changedSince: "main",
    });
  });

  test("files under stress, twenty times each", () => {
    expect(options("--stress", "a.test.ts")).toMatchObject({
      layers: [],
      stress: { files: ["a.test.ts"], times: 20 },
    });
    expect(options("--stress", "a", "b", "--times", "3")).toMatchObject({
      stress: { files: ["a", "b"], times: 3 },
    });
  });

  test.each([
    [["units"], /"units".*verify, unit, integration/],
    [["--stress"], /files/],
    [["--times", "3"], /--stress/],
    [["--since", "main"], /--changed/],
    [["--shard", "3/2"], /--shard.*"3\/2"/],
    [["--shard", "0/2"], /--shard/],
    [["--shard", "one"], /--shard/],
    [["--seed", "-1"], /seed/],
    [["--stress", "a", "--times", "0"], /--times/],
    [["--fast"], /--fast/],
  ])("%j is refused, and the message names what is wrong", (args, message) => {
    expect(() => options(...args)).toThrow(message);
  });
});
