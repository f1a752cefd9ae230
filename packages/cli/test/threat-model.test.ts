/** Every claim of docs/threat-model.md names a test that could contradict it. */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { withAttacks } from "../../../tests/system/support/attacks.ts";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const text = readFileSync(`${ROOT}docs/threat-model.md`, "utf8");
const [, attacks = ""] = text.split("| attack | outcome | noticed by |");
const rows = attacks
  .split("\n\n")[0]
  ?.split("\n")
  .filter((line) => line.startsWith("| ") && !line.startsWith("|--"))
  .map((line) => line.split("|").map((cell) => cell.trim()));

test("the attacks that are tried against a live fleet are those of the test (else: pnpm generate)", () => {
  expect(withAttacks(text)).toBe(text);
});

test("every attack names the test that would notice, and it is there", () => {
  expect(rows?.length).toBeGreaterThan(15);
  for (const [, attack, outcome, noticedBy = ""] of rows ?? []) {
    expect(outcome, attack).not.toBe("");
    if (noticedBy.startsWith("the same")) continue;
    const files = noticedBy.split(", ");
    for (const file of files) expect(existsSync(`${ROOT}${file}`), `${attack}: ${file}`).toBe(true);
  }
});
