/** Codes that the programs of a fleet emit, and the tables that explain them. */
import { CAUSE_CODES, ERROR_CODES } from "../../packages/contracts/src/index.ts";
import type { Source } from "./sources.ts";

const IS_PART = /^(apps|packages\/(plans|db|service|identity))\/.*src\//;
const CODE = /\bcode(?::|\s=) "([A-Z]+(?:_[A-Z]+)+)"/g;
/** The page with the table of the problems that programs report about themselves. */
const PROBLEMS = "docs/operate/deployment.md";

/**
 * Returns a line for each code without an explanation, and for each explained code that no program
 * emits.
 */
export function checkCodes(sources: readonly Source[]): string[] {
  const parts = sources.filter(({ path }) => IS_PART.test(path));
  const problems = sources.find(({ path }) => path === PROBLEMS)?.text ?? "";
  const known = new Set([...Object.keys(ERROR_CODES), ...Object.keys(CAUSE_CODES)]);
  const unknown = parts.flatMap(({ path, text }) =>
    Array.from(text.matchAll(CODE), ([, code = ""]) => code)
      .filter((code) => !known.has(code) && !problems.includes(`| \`${code}\` |`))
      .map((code) => `${path}: ${code} is in no table of error-codes.ts`),
  );
  const all = parts.map(({ text }) => text).join("\n");
  const isGiven = (code: string) =>
    all.includes(`"${code}"`) || (code.startsWith("SANDBOX_") && all.includes("`SANDBOX_${"));
  const unused = [...known].filter((code) => !isGiven(code));
  return [...unknown, ...unused.map((code) => `error-codes.ts: nothing gives out ${code}`)];
}
