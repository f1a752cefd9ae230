import { expect, test } from "vitest";
import { readOptions } from "../src/commands/bench-options.ts";

const DEFAULTS = { seconds: "5", clients: "1,32", edge: "domain", steps: "idle" };

test("a benchmark has the options that it names, with its own defaults, and the files of all", () => {
  expect(readOptions([], DEFAULTS)).toEqual({
    options: { seconds: 5, clients: [1, 32], edge: "domain", steps: ["idle"] },
    files: expect.anything(),
  });
  const args = ["--clients", "8", "--steps", "get,list", "--json", "a.json"];
  const { options, files } = readOptions(args, DEFAULTS);
  expect(options).toMatchObject({ clients: [8], steps: ["get", "list"], seconds: 5 });
  expect(files).toMatchObject({ json: "a.json" });
});

test.each([
  [["--seconds", "0"], /--seconds/],
  [["--clients", "1,x"], /--clients/],
  [["--edge", "domain,loopback"], /--edge is one of loopback, domain/],
  [["--steps", "idle,none"], /--steps has no "none"; there are idle, /],
  [["--hosts", "3"], /--hosts/],
])("%s is refused with a line that names it", (args, says) => {
  expect(() => readOptions(args, DEFAULTS)).toThrow(says);
});
