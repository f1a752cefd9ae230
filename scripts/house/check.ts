/** `pnpm house`: what the formatter, the linter and the compiler do not see. Exits 1 at a fault. */
import { readSources } from "../references/sources.ts";
import { checkTypeNames } from "./type-names.ts";
import { checkWidth } from "./width.ts";
import { checkWords } from "./words.ts";

const sources = readSources().filter(({ path }) => !path.endsWith(".sql"));
const faults = [...checkWidth(sources), ...checkTypeNames(sources), ...checkWords(sources)];
for (const fault of faults) process.stderr.write(`house: ${fault}\n`);
process.exitCode = faults.length === 0 ? 0 : 1;
