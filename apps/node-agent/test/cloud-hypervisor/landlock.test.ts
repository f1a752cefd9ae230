import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { landlockIsOn } from "../../src/drivers/cloud-hypervisor/landlock.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "landlock-"));
  await writeFile(join(dir, "with"), "capability,landlock,yama\n");
  await writeFile(join(dir, "without"), "capability,yama\n");
});
afterAll(async () => {
  await rm(dir, { recursive: true });
});

test.each([
  ["with", "6.2.0-1-amd64", true],
  ["with", "6.12.117+deb12-amd64", true],
  ["with", "7.0.0", true],
  ["with", "6.1.0-56-amd64", false],
  ["with", "5.19.0", false],
  ["without", "6.12.0", false],
  ["missing", "6.12.0", false],
])("landlock %s the list of security modules, kernel %s: %s", async (file, kernel, expected) => {
  expect(await landlockIsOn(join(dir, file), kernel)).toBe(expected);
});
