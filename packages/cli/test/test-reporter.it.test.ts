/**
 * The report at the end of `torpor test` names each failure, with what is needed to understand it.
 */
import { mkdtempDisposable, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "@torpor/service";
import { expect, test } from "vitest";
import { readReport, REPORT_VARIABLE } from "../src/test/reporter.ts";

const ROOT = join(import.meta.dirname, "../../..");
const REPORTER = join(ROOT, "packages/cli/src/test/reporter.ts");
const TESTS = {
  "a.test.js": `
    test("is as it should be", () => {});
    test.skip("is for another machine", () => {});
    describe("a host", () => {
      test("is drained", () => expect({ id: "host-1", state: "draining" }).toMatchObject({ state: "cordoned" }));
      test("leaves something behind", () => void Promise.reject(new Error("late", { cause: new Error("ENOENT") })));
    });`,
  "b.test.js": `beforeAll(() => { throw new Error("no database"); }); test("never begins", () => {});`,
  "c.test.js": `throw new Error("does not load");`,
};

test("a failed assertion with its difference, a hook, a file, and what happened outside of any test", async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), "torpor-report-"));
  for (const [name, text] of Object.entries(TESTS)) await writeFile(join(dir.path, name), text);
  const report = join(dir.path, "report.json");
  const args = [
    process.execPath,
    join(ROOT, "node_modules/vitest/vitest.mjs"),
    "run",
    "--root",
    dir.path,
    "--globals",
    `--reporter=${REPORTER}`,
  ];
  const { code, output } = await run(args, {
    cwd: ROOT,
    env: { [REPORT_VARIABLE]: report },
    isShown: false,
  });
  expect(code, output).toBe(1);
  const { failures, ...counts } = readReport(report);
  expect(counts).toMatchObject({ passed: 2, failed: 4, skipped: expect.any(Number) });
  const failure = (name: string) => failures.find((text) => text.startsWith(name));
  expect(failure("a.test.js: a host > is drained\n")).toMatch(
    /-\s+"state": "cordoned"[^]*\+\s+"state": "draining"/,
  );
  expect(failure("b.test.js")).toContain("no database");
  expect(failure("c.test.js")).toContain("does not load");
  expect(failure("outside of any test\n")).toMatch(
    /Unhandled Rejection, .*a\.test\.js[^]*Error: late[^]*caused by Error: ENOENT/,
  );
});
