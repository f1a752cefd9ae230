/**
 * The demo's story, as a test: each of its claims is checked on real virtual machines, with the
 * official SDK.
 */
import { stageOf, tellStory } from "@torpor/cli";
import { ROOT, startVmFleet } from "@torpor/testkit";
import { expect, test } from "vitest";

test("every claim of the demo is true", async () => {
  await using fleet = await startVmFleet();
  const told: string[] = [];
  const isTrue = await tellStory(await stageOf(fleet.fleet, ROOT), (line) => told.push(line));
  expect(isTrue, told.join("\n")).toBe(true);
  expect(told.filter((line) => line.includes("✓")).length).toBeGreaterThanOrEqual(19);
});
