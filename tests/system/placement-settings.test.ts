/** The schedulers' placement settings, as an operator sets them. */
import { startTestFleet, type TestFleet } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet({
    hosts: 2,
    schedulers: 1,
    hostEnv: { CAPACITY_VCPU: "2" },
    schedulerEnv: { PLACEMENT_POLICY: "binpack", VCPU_OVERCOMMIT: "1.5" },
  });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

test("with binpack and an overcommit of 1.5, two vCPUs take three sandboxes before another host gets one", async () => {
  expect(await fleet.hosts()).toMatchObject([{ capacity: { vcpu: 3 } }, { capacity: { vcpu: 3 } }]);
  const placed: unknown[] = [];
  for (let made = 0; made < 4; made += 1) placed.push((await fleet.createSandbox()).node_id);
  expect(new Set(placed.slice(0, 3)).size).toBe(1);
  expect(placed[3]).not.toBe(placed[0]);
  const dryRun = await fleet.client.sandboxes.dryRun({ template_name: "code-interpreter" });
  expect(dryRun).toMatchObject({
    policy: "binpack",
    host_id: placed[3],
    candidate_count: 1,
    reasons: { vcpu: 1 },
  });
});
