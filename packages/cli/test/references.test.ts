/**
 * Everything that comments, tests and documents refer to exists, and pages that are generated from
 * code are current.
 */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { checkCitations } from "../../../scripts/references/citations.ts";
import { checkCodes } from "../../../scripts/references/codes.ts";
import { checkLabels, definitionsIn } from "../../../scripts/references/labels.ts";
import { renderPages } from "../../../scripts/references/pages.ts";
import { guardsOf } from "../../../scripts/references/scenarios-page.ts";
import { SCENARIOS } from "../../../scripts/references/scenarios.ts";
import { listFiles, readSources, ROOT } from "../../../scripts/references/sources.ts";

const files = listFiles();
const sources = readSources(files);

test("every scenario has a test that names it, or says why there is none", () => {
  const guards = guardsOf(sources);
  expect(SCENARIOS).toHaveLength(55);
  for (const [at, { untested }] of SCENARIOS.entries())
    expect((guards[at]?.length ?? 0) === 0, `S${at + 1}`).toBe(untested !== undefined);
});

test("every label is one rule's, is cited by the test that guards it, and is defined where it is cited", () => {
  expect(definitionsIn(sources).length).toBeGreaterThan(150);
  expect(checkLabels(sources)).toEqual([]);
});

test("every file, decision and section that is cited is in the repository", () => {
  expect(checkCitations(sources, files)).toEqual([]);
});

test("every code that is given out has a meaning, and every meaning a code", () => {
  expect(checkCodes(sources)).toEqual([]);
});

test.each(renderPages(sources))("%s is what the code says (else: pnpm generate)", (path, text) => {
  expect(existsSync(`${ROOT}${path}`)).toBe(true);
  expect(readFileSync(`${ROOT}${path}`, "utf8")).toBe(text);
});

describe("a reference that is wrong", () => {
  // Built from parts, so that this file does not cite the label itself.
  const ONE = "ZZ1";
  const RULE = ` * ${ONE}  One rule.\n`;
  const CITED = { path: "x/test/a.test.ts", text: `test("${ONE}: it holds", () => {});` };
  test.each([
    ["a label twice in a file", [{ path: "x/src/a.ts", text: RULE + RULE }, CITED], "twice"],
    [
      "a prefix in two files",
      [{ path: "x/src/a.ts", text: RULE }, { path: "x/src/b.ts", text: " * ZZ2  More.\n" }, CITED],
      "several files",
    ],
    ["a label without a test", [{ path: "x/src/a.ts", text: RULE }], "no test cites ZZ1"],
    ["a label without a rule", [CITED], "ZZ1 is defined nowhere"],
    ["a rule that is not there", [{ path: "x/src/a.ts", text: `${RULE}// (ZZ3)` }, CITED], "ZZ3"],
    ["a scenario that is not there", [{ path: "x/src/a.ts", text: "// (S56)" }], "S56"],
  ])("%s", (_, given, says) => {
    expect(checkLabels(given).join("\n")).toContain(says);
  });

  test.each([
    ["a file", "// As in gone.ts.", "gone.ts"],
    ["a file of a document", "See [there](gone.md).", "gone.md"],
    ["a decision", "// Why: decision 9999.", "decision 9999"],
    ["a section", "// By architecture.md 6.", "architecture.md 6"],
  ])("%s", (_, text, says) => {
    const path = text.startsWith("//") ? "x/src/a.ts" : "docs/a.md";
    const wrong = checkCitations([{ path, text }], [path]);
    expect(wrong.join("\n")).toContain(`${path} cites ${says}`);
  });

  test("a code", () => {
    const source = { path: "apps/gateway/src/a.ts", text: 'const cause = { code: "NOT_KNOWN" };' };
    expect(checkCodes([source])).toContain(
      "apps/gateway/src/a.ts: NOT_KNOWN is in no table of error-codes.ts",
    );
  });
});
