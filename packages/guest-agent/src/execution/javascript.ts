/**
 * What a piece of JavaScript is, decided by the parser: a script, or a module because only a module
 * may hold its `import`, `export` or `import.meta`. Node 18 has to be told.
 */
import { compileFunction } from "node:vm";

const PARAMETERS = ["exports", "require", "module", "__filename", "__dirname"];
const IS_OF_A_MODULE = /import statement|Unexpected token 'export'|import\.meta/;
/** Larger texts are generated, and would keep the agent from its other work. */
const MAX_PARSED_LENGTH = 1024 ** 2;

export function isModule(code: string): boolean {
  if (code.length > MAX_PARSED_LENGTH) return false;
  const body = code.replace(/^#!.*/, "");
  // A script that awaits is run in an async function (guest/run_javascript.cjs).
  return [body, `return (async () => {${body}\n})()`].some((text) =>
    IS_OF_A_MODULE.test(syntaxErrorOf(text)),
  );
}

/** Empty for a text that could be run. Nothing of it runs here. */
function syntaxErrorOf(text: string): string {
  try {
    compileFunction(text, PARAMETERS);
    return "";
  } catch (error) {
    return (error as Error).message;
  }
}
