/**
 * Runs a script from standard input as `node -` does, where the script may also await at its top
 * level. Modules (static import and export) are run by Node itself (src/execution/languages.ts).
 */
const { readFileSync } = require("node:fs");
const Module = require("node:module");
const { join } = require("node:path");
const { compileFunction } = require("node:vm");

const PARAMETERS = ["exports", "require", "module", "__filename", "__dirname"];
/** What Node itself ends with when a top-level await is never settled. */
const UNSETTLED_EXIT_CODE = 13;

/** Where a script may read `await` as the name of a function, or of a value. */
const IS_AMBIGUOUS = /\bawait\s*[([`+\-/]/;

// The line stays, for the numbers of the others.
const script = readFileSync(0, "utf8").replace(/^#!.*/, "");
const file = join(process.cwd(), "[stdin]");
process.argv[1] = "-";

function compiles(code) {
  try {
    compileFunction(code, PARAMETERS);
    return true;
  } catch {
    return false;
  }
}

/**
 * The script as it is, unless it awaits: then within an async function. Lines keep their numbers.
 * Of a script that is wrong as well, the mistake is told, not the `await`.
 */
function runnable() {
  const asIs = { code: script, awaits: false };
  const isScript = compiles(script);
  if (!/\bawait\b/.test(script) || (isScript && !IS_AMBIGUOUS.test(script))) return asIs;
  const code = `module.exports = (async () => {${script}\n})();`;
  return isScript && !compiles(code) ? asIs : { code, awaits: true };
}

const { code, awaits } = runnable();
const main = new Module(file, null);
main.filename = file;
main.paths = Module._nodeModulePaths(process.cwd());
process.mainModule = main;
main._compile(code, file);
if (awaits) tellIfUnsettled(main.exports);

function tellIfUnsettled(promise) {
  let isSettled = false;
  const settle = () => (isSettled = true);
  // A rejection nobody handles ends the process with its message.
  promise.then(settle, (error) => {
    settle();
    throw error;
  });
  process.once("exit", (exitCode) => {
    if (isSettled || exitCode !== 0) return;
    process.stderr.write("what the script awaited never came; what follows it did not run\n");
    process.exitCode = UNSETTLED_EXIT_CODE;
  });
}
