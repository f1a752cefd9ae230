/**
 * Packages that users install by pip and npm, in the image's own tree. The tests build the
 * packages; nothing is downloaded.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { AgentProcess } from "./harness.ts";
import { startImageAgent } from "./image.ts";

const WHEEL = "/tmp/hello-1-py3-none-any.whl";
const MAKE_WHEEL = `
import zipfile
with zipfile.ZipFile('${WHEEL}', 'w') as wheel:
  info = 'hello-1.dist-info/'
  wheel.writestr('hello.py', 'def main(): print("hello from a wheel")')
  wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: hello\\nVersion: 1\\n')
  tags = 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'
  wheel.writestr(info + 'WHEEL', tags)
  wheel.writestr(info + 'entry_points.txt', '[console_scripts]\\nhello = hello:main\\n')
  wheel.writestr(info + 'RECORD', '')
`;
const GREET = { name: "greet", version: "1.0.0", bin: { greet: "index.js" } };
const GREET_MAIN = `#!/usr/bin/env node
module.exports = () => 'greet';
if (require.main === module) console.log('greet');
`;

let agent: AgentProcess;
beforeAll(async () => {
  agent = await startImageAgent();
  await newKernel(MAKE_WHEEL);
  for (const [name, content] of [
    ["package.json", JSON.stringify(GREET)],
    ["index.js", GREET_MAIN],
  ])
    await agent.call("POST", "/files/write", { path: `/tmp/greet/${name}`, content });
  await shell("tar cz -C /tmp -f /tmp/greet.tgz greet");
});
afterAll(async () => await agent[Symbol.asyncDispose]());

async function shell(command: string): Promise<string> {
  const { stdout, stderr, exit_code } = await agent.shell(command, { timeout: 240 });
  expect({ stderr, exit_code }, command).toEqual({ stderr: "", exit_code: 0 });
  return String(stdout).trim();
}

async function run(language: "python" | "javascript", code: string): Promise<string> {
  const { body } = await agent.call("POST", "/execute", { language, code, timeout: 100 });
  expect(body["stderr"], code).toBe("");
  return String(body["stdout"]).trim();
}

/** Consumes the message of the first response, that earlier state is lost. */
async function newKernel(code: string): Promise<void> {
  await agent.call("POST", "/execute", { language: "python", code });
}

const HELLO = "import hello\nhello.main()";

test("by pip: for the kernel that runs already, for a new one, and for programs", async () => {
  await shell(`pip install --quiet ${WHEEL}`);
  expect(await run("python", HELLO)).toBe("hello from a wheel");
  await newKernel("import os; os._exit(0)");
  await newKernel("");
  expect(await run("python", HELLO)).toBe("hello from a wheel");
  expect(await shell("cd /; hello")).toBe("hello from a wheel");
});

test("by npm: for JavaScript, and for programs", async () => {
  await shell("npm install --offline --silent /tmp/greet.tgz");
  await shell("npm install --offline --silent --global /tmp/greet.tgz");
  expect(await run("javascript", "console.log(require('greet')())")).toBe("greet");
  expect(await shell("node_modules/.bin/greet; cd /; greet")).toBe("greet\ngreet");
});

test("a virtual environment needs nothing from outside, and its pip installs", async () => {
  await shell(`python3 -m venv venv && venv/bin/pip install --quiet ${WHEEL}`);
  expect(await shell("venv/bin/hello")).toBe("hello from a wheel");
});
