/**
 * JavaScript as people write it: scripts and modules, with `await` and `require` in any position.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { type AgentProcess, startAgent } from "./harness.ts";

let agent: AgentProcess;
beforeAll(async () => {
  agent = await startAgent();
});
afterAll(async () => {
  await agent[Symbol.asyncDispose]();
});

const run = async (code: string) =>
  (await agent.call("POST", "/execute", { code, language: "javascript" })).body;

test.each([
  ["a script that awaits", "console.log(await Promise.resolve(4))", "4\n"],
  [
    "with require beside it",
    "const os = require('os'); const n = await Promise.resolve(5); console.log(n, typeof os.cpus)",
    "5 function\n",
  ],
  [
    "a module with require beside import",
    "import fs from 'node:fs'; const os = require('os'); console.log(typeof os.cpus, await 3)",
    "function 3\n",
  ],
  ["a loop that awaits", "for await (const n of [1, 2]) console.log(n)", "1\n2\n"],
  [
    "an import in a script",
    "const { sep } = await import('node:path'); undeclared = sep; console.log(undeclared)",
    "/\n",
  ],
  [
    "a script's own names",
    "console.log(require.main === module, __dirname === process.cwd(), process.argv.length)",
    "true true 2\n",
  ],
  ["the word in a text", "const text = 'await'; console.log(text)", "await\n"],
  ["a first line for the shell", "#!/usr/bin/env node\nconsole.log('ran')", "ran\n"],
  [
    "a timer that outlasts the script",
    "setTimeout(() => console.log('later'), 20); await 1",
    "later\n",
  ],
])("%s", async (_what, code, stdout) => {
  expect(await run(code)).toMatchObject({ success: true, stdout, stderr: "" });
});

test.each([
  ["an error", "\n\nthrow new Error('here')", 1, "[stdin]:3"],
  ["an error after an await", "await 1\nthrow new Error('here')", 1, "[stdin]:2"],
  ["a rejection", "await Promise.reject(new Error('no'))", 1, "Error: no"],
  ["a mistake in the text", "const a = ;", 1, "SyntaxError"],
  [
    "an await that never comes",
    "await new Promise(() => {}); console.log('not run')",
    13,
    "did not run",
  ],
  ["an exit code", "await 1; process.exit(3)", 3, ""],
])("%s is no success, and is told", async (_what, code, exitCode, stderr) => {
  expect(await run(code)).toMatchObject({
    success: false,
    stdout: "",
    exit_code: exitCode,
    stderr: expect.stringContaining(stderr),
  });
});
