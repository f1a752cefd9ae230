/**
 * Runs a script from standard input as `node -` does, but also allows `await` at its top level.
 * Node itself runs modules (static import and export; src/execution/languages.ts).
 */
const { readFileSync } = require("node:fs");
const Module = require("node:module");
const { join } = require("node:path");
const { compileFunction } = require("node:vm");

const PARAMETERS = ["exports", "require", "module", "__filename", "__dirname"];
/** Node's own exit code when a top-level await is never settled. */
const UNSETTLED_EXIT_CODE = 13;

/** Matches where a script may use `await` as the name of a function or of a value. */
const IS_AMBIGUOUS = /\bawait\s*[([`+\-/]/;

// The first line stays, empty, so that line numbers do not change.
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
 * Returns the script unchanged, unless it awaits: then wrapped in an async function, with the same
 * line numbers. If the script also has an error, the reported error is that one, not the `await`.
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
  // An unhandled rejection ends the process with its message.
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
