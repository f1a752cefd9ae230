import { describe, expect, test } from "vitest";
import { findEnvProblem, MAX_ENV_BYTES, MAX_PROGRAM_STRING_BYTES } from "../src/env-vars.ts";

/** A variable that takes this many bytes with its name and "=". */
const ofBytes = (bytes: number) => ({ A: "x".repeat(bytes - 2) });
/** Variables whose JSON text has this many bytes. */
function ofJsonBytes(bytes: number): Record<string, string> {
  const most = Object.fromEntries(["A", "B", "C"].map((name) => [name, "x".repeat(80_000)]));
  const rest = bytes - JSON.stringify({ ...most, D: "" }).length;
  return { ...most, D: "x".repeat(rest) };
}

describe("the variables that a program can be started with", () => {
  test.each<[string, Record<string, string>]>([
    ["none", {}],
    ["every kind of name", { a: "", _: "", A_1: "", ["A".repeat(256)]: "" }],
    ["the largest single one", ofBytes(MAX_PROGRAM_STRING_BYTES)],
    ["as many as there may be", ofJsonBytes(MAX_ENV_BYTES)],
    ["values of any text", { A: "é€𝄞\n\t'\"=", B: "=" }],
    [
      "names of an object's own",
      JSON.parse('{"__proto__":"a","constructor":"b"}') as Record<string, string>,
    ],
  ])("%s: all is well", (_, variables) => expect(findEnvProblem(variables)).toBeUndefined());

  test.each<[string, Record<string, string>, string | undefined, RegExp]>([
    ["no name", { "": "x" }, "", /name/],
    ["a digit first", { "1A": "x" }, "1A", /name/],
    ["a dash", { "A-B": "x" }, "A-B", /name/],
    ["an equals sign", { "A=B": "x" }, "A=B", /name/],
    ["a NUL in a name", { "A\0": "x" }, "A\0", /name/],
    ["a line break at the end of a name", { "A\n": "x" }, "A\n", /name/],
    ["letters that are not ASCII", { É: "x" }, "É", /name/],
    ["a name that is too long", { ["A".repeat(257)]: "x" }, `${"A".repeat(40)}…`, /name/],
    ["a NUL in a value", { A: "x\0y" }, "A", /NUL/],
    ["half a surrogate pair in a value", { A: "x\ud800" }, "A", /surrogate/],
    [
      "one byte too many in one",
      ofBytes(MAX_PROGRAM_STRING_BYTES + 1),
      "A",
      /131071 bytes.* is 131072$/,
    ],
    [
      "bytes are counted, not characters",
      { A: "é".repeat(70_000) },
      "A",
      /131071 bytes.* is 140002$/,
    ],
    [
      "one byte too many together",
      ofJsonBytes(MAX_ENV_BYTES + 1),
      undefined,
      /262144 bytes.* is 262145$/,
    ],
    [
      "many names without values",
      Object.fromEntries(Array.from({ length: 30_000 }, (_, at) => [`N${at}`, ""])),
      undefined,
      /262144 bytes/,
    ],
  ])("%s: refused", (_, variables, name, message) =>
    expect(findEnvProblem(variables)).toEqual({ name, message: expect.stringMatching(message) }),
  );
});
