/** ./torpor, which lists the commands by name, accepts every command, and its usage lists each. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

const read = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), "utf8");
const commands = [...read("packages/cli/src/main.ts").matchAll(/^ {2}(\w+): async/gm)].map(
  ([, name = ""]) => name,
);

test("./torpor lets through what there is, and nothing else", () => {
  const [, names = ""] = /^ {2}(demo \| [^)]*)\) ;;$/m.exec(read("torpor")) ?? [];
  expect(names.split(" | ").toSorted()).toEqual(commands.toSorted());
});

test.each(commands)("its usage tells of %s", (name) => {
  expect(read("scripts/setup.sh")).toMatch(new RegExp(`^  ${name}\\b`, "m"));
});
