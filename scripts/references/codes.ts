/** Codes that the programs of a fleet give out, and the tables that say what they mean. */
import { CAUSE_CODES, ERROR_CODES } from "../../packages/contracts/src/index.ts";
import type { Source } from "./sources.ts";

const IS_PART = /^(apps|packages\/(plans|db|service|identity))\/.*src\//;
const CODE = /\bcode(?::|\s=) "([A-Z]+(?:_[A-Z]+)+)"/g;
/** Has the table of the problems that programs report about themselves. */
const PROBLEMS = "docs/operate/deployment.md";

/** Codes without a meaning, and meanings that nothing gives out, a line each. */
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
