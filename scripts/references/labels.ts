/**
 * Labels of rules (`SW1`): defined in the header of the file that holds the rule, and cited in the
 * names or comments of the tests that guard it.
 */
import { SCENARIOS } from "./scenarios.ts";
import { isTest, LABEL, type Source, titlesIn } from "./sources.ts";

/** In a comment, or in the docstring of a Python file: the label, two spaces, the rule. */
const DEFINITION = new RegExp(`^(?: \\* )?(${LABEL}) {2,}\\S`, "gm");
const COMMENT = /^\s*(?:\/\*\*?|\*|\/\/|#)(.*)$|\s\/\/ (.*)$/gm;
const MENTION = new RegExp(`\\b(${LABEL})\\b`, "g");
/** `(S31)`, `(VP1, VP2)`. */
const IN_BRACKETS = new RegExp(`\\(((?:${LABEL})(?:(?:, | and | to )(?:${LABEL}))*)\\)`, "g");
/** Terms of the field that look like labels. */
const NO_LABELS = new Set(["S3"]);

const prefixOf = (label: string) => label.replace(/\d+$/, "");
const isScenario = (label: string) => prefixOf(label) === "S";

interface Definition {
  label: string;
  path: string;
}

export function definitionsIn(sources: readonly Source[]): Definition[] {
  return sources
    .filter((source) => /\.(ts|py|sh|cjs)$/.test(source.path) && !isTest(source))
    .flatMap(({ path, text }) =>
      Array.from(text.matchAll(DEFINITION), ([, label = ""]) => ({ label, path })),
    );
}

/** Returns a line for each error in labels and scenario numbers. */
export function checkLabels(sources: readonly Source[]): string[] {
  const definitions = definitionsIn(sources);
  const defined = new Set(definitions.map(({ label }) => label));
  const prefixes = new Set([...defined].map(prefixOf));
  const isKnown = (label: string) =>
    isScenario(label) ? Number(label.slice(1)) <= SCENARIOS.length : defined.has(label);
  const citedByTests = new Set(sources.filter(isTest).flatMap(citedInTest));
  const unknown = sources.flatMap((source) => {
    const mentioned = isTest(source) ? [...citedInTest(source), ...titlesIn(source)] : [];
    const all = [...mentioned, ...citedInText(source, prefixes)];
    const wrong = [...new Set(all)].filter((label) => !isKnown(label));
    return wrong.map((label) => `${source.path}: ${label} is defined nowhere`);
  });
  return [
    ...[...Map.groupBy(definitions, ({ label }) => label)]
      .filter(([, places]) => places.length > 1)
      .map(([label, places]) => `${label} is defined twice: ${paths(places)}`),
    ...[...Map.groupBy(definitions, ({ label }) => prefixOf(label))]
      .filter(([, places]) => new Set(places.map(({ path }) => path)).size > 1)
      .map(([prefix, places]) => `${prefix} is the prefix of several files: ${paths(places)}`),
    ...definitions
      .filter(({ label }) => !citedByTests.has(label))
      .map(({ label, path }) => `${path}: no test cites ${label}; cite it, or remove the label`),
    ...unknown,
  ];
}

const paths = (places: Definition[]) => [...new Set(places.map(({ path }) => path))].join(", ");

/** Labels in the names and comments of a test. */
function citedInTest(source: Source): string[] {
  return [...titlesIn(source), ...labelsIn(commentsOf(source))];
}

/**
 * Labels in comments and documents: those in brackets, and in comments also those with the prefix
 * of a file. A document may have other words of that form.
 */
function citedInText(source: Source, prefixes: Set<string>): string[] {
  const isDocument = source.path.endsWith(".md");
  const text = isDocument ? source.text : commentsOf(source);
  const inBrackets = Array.from(text.matchAll(IN_BRACKETS), ([, labels = ""]) => labelsIn(labels));
  const loose = isDocument ? [] : labelsIn(text).filter((label) => !isScenario(label));
  return [...inBrackets.flat(), ...loose].filter(
    (label) => isScenario(label) || prefixes.has(prefixOf(label)),
  );
}

const labelsIn = (text: string) =>
  Array.from(text.matchAll(MENTION), ([, label = ""]) => label).filter(
    (label) => !NO_LABELS.has(label),
  );

function commentsOf({ text }: Source): string {
  return Array.from(text.matchAll(COMMENT), ([, line = "", end = ""]) => line + end).join("\n");
}
