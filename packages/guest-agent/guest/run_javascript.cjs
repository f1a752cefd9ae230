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

const script = readFileSync(0, "utf8");
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

/** The script as it is, unless only an async function can hold it. Lines keep their numbers. */
function runnable() {
  if (compiles(script) || !/\bawait\b/.test(script)) return { code: script, awaits: false };
  const code = `module.exports = (async () => {${script}\n})();`;
  return compiles(code) ? { code, awaits: true } : { code: script, awaits: false };
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
  // A rejection nobody handles ends the process with its message.
  promise.then(() => (isSettled = true));
  process.once("exit", (exitCode) => {
    if (isSettled || exitCode !== 0) return;
    process.stderr.write("what the script awaited never came; what follows it did not run\n");
    process.exitCode = UNSETTLED_EXIT_CODE;
  });
}
