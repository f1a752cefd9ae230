/** The checks of `pnpm house` find what they are for. */
import { describe, expect, test } from "vitest";
import { checkTypeNames } from "../../../scripts/house/type-names.ts";
import { checkWidth } from "../../../scripts/house/width.ts";
import { checkWords } from "../../../scripts/house/words.ts";
import { readSources } from "../../../scripts/references/sources.ts";

const LONG = `${"word ".repeat(24)}end`;
const at = (path: string, text: string) => [{ path, text }];

test("the repository passes", () => {
  const sources = readSources().filter(({ path }) => !path.endsWith(".sql"));
  expect(sources.length).toBeGreaterThan(900);
  expect(checkTypeNames(sources)).toEqual([]);
});

describe("width", () => {
  test.each([
    ["a comment", at("x/src/a.ts", `const a = 1;\n  // ${LONG}\n`), "a.ts:2 has"],
    ["a doc comment", at("x/src/a.ts", `/** ${LONG} */`), "a.ts:1"],
    ["a comment of a script", at("x/a.sh", `# ${LONG}`), "a.sh:1"],
    ["a paragraph", at("docs/a.md", `short\n\n${LONG}\n`), "a.md:3"],
    ["an item of a list", at("docs/a.md", `- ${LONG}`), "a.md:1"],
  ])("%s that is too long is found", (_, sources, says) => {
    expect(checkWidth(sources).join("\n")).toContain(says);
  });

  test.each([
    ["a table", at("docs/a.md", `| ${LONG} |`)],
    ["a block of code", at("docs/a.md", `\`\`\`sh\n${LONG}\n\`\`\``)],
    ["an address", at("docs/a.md", `- <https://example.com/${"x".repeat(100)}>`)],
    ["a string", at("x/src/a.ts", `const a = "${LONG}";`)],
    ["a directive", at("x/src/a.ts", `// oxlint-disable-next-line a -- ${LONG}`)],
  ])("%s may be longer", (_, sources) => {
    expect(checkWidth(sources)).toEqual([]);
  });
});

describe("names of types", () => {
  const one = { path: "a/src/a.ts", text: "export interface Thing {}\n" };
  test("a name that two files export is found", () => {
    const two = { path: "b/src/b.ts", text: "export type Thing = string;\n" };
    expect(checkTypeNames([one, two])).toEqual([
      "the type Thing is exported by a/src/a.ts and b/src/b.ts",
    ]);
  });
  test("a schema and its type in one file are one", () => {
    const both =
      "export const Thing = 1;\nexport type Thing = number;\nexport interface Thing {}\n";
    expect(checkTypeNames([{ path: "a/src/a.ts", text: both }])).toEqual([]);
  });
});

describe("words", () => {
  test.each([
    ["a name", at("x/src/a.ts", "const strayVm = 1;"), "strayVm"],
    ["a constant", at("x/src/a.ts", "const MAX_BEATS = 1;"), "MAX_BEATS"],
    ["a document", at("docs/a.md", "It is made\nanew.\n"), "a.md:2"],
  ])("a banned word in %s is found", (_, sources, says) => {
    expect(checkWords(sources).join("\n")).toContain(says);
  });
  test.each([
    ["a string", at("x/src/a.ts", 'const a = "a stray beat";')],
    ["a comment", at("x/src/a.ts", "// stray\n")],
    ["a name that has it inside", at("x/src/a.ts", "const heartbeat = 1;")],
    ["code in a document", at("docs/a.md", "The subject `host.1.beat` stays.")],
  ])("%s may have it", (_, sources) => {
    expect(checkWords(sources)).toEqual([]);
  });
});
