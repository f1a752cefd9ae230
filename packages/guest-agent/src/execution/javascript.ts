/**
 * Decides by parsing whether a piece of JavaScript is a script or a module. Code is a module if it
 * has an `import`, `export` or `import.meta` that only a module may have. Node 18 cannot detect
 * this itself.
 */
import { compileFunction } from "node:vm";

const PARAMETERS = ["exports", "require", "module", "__filename", "__dirname"];
const IS_OF_A_MODULE = /import statement|Unexpected token 'export'|import\.meta/;
/** Larger texts are generated code, and parsing them would block the agent. */
const MAX_PARSED_LENGTH = 1024 ** 2;

export function isModule(code: string): boolean {
  if (code.length > MAX_PARSED_LENGTH) return false;
  const body = code.replace(/^#!.*/, "");
  // A script that uses `await` runs inside an async function (guest/run_javascript.cjs).
  return [body, `return (async () => {${body}\n})()`].some((text) =>
    IS_OF_A_MODULE.test(syntaxErrorOf(text)),
  );
}

/** Returns "" if the text compiles. The text is not run. */
function syntaxErrorOf(text: string): string {
  try {
    compileFunction(text, PARAMETERS);
    return "";
  } catch (error) {
    return (error as Error).message;
  }
}
