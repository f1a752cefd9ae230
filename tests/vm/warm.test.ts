/** Warm VMs, on real virtual machines; the rules are tested in warm-pool.it.test.ts. */
import { type SandboxResource, shell, startVmFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

const WARM_LIMIT_MS = 120_000;

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startVmFleet({ hosts: 1, hostEnv: { WARM_POOL_MAX: "1" } });
});
afterAll(async () => await fleet[Symbol.asyncDispose]());

const create = () => fleet.createSandbox({ env_vars: { GIVEN: "yes" } });
const change = async ({ id }: SandboxResource, verb: "pause" | "resume") => {
  const { operation_id = "" } = await fleet.client.sandboxes[verb](id);
  return await fleet.client.operations.get(operation_id);
};
const isWarm = async () => {
  const host = fleet.fleet.state.components.find(({ role }) => role === "node-agent");
  const health = (await (await fetch(host?.healthUrl ?? "")).json()) as { warmVms: number };
  return health.warmVms === 1 ? true : undefined;
};

test(
  "WP4, G2: two sandboxes of one warm VM after the other share nothing, and pause and resume as others do",
  { tags: ["exhaustive"] },
  async () => {
    await create();
    const made: SandboxResource[] = [];
    for (let taken = 0; taken < 2; taken += 1) {
      await until("a warm VM", isWarm, WARM_LIMIT_MS);
      made.push(await create());
    }
    const identity = "hostname; cat /etc/machine-id; od -An -N16 -tx1 /dev/urandom";
    const [one, other] = await Promise.all(made.map((sandbox) => shell(sandbox, identity)));
    const parts = [one, other].map((text = "") => text.split("\n"));
    for (const at of [0, 1, 2]) expect(parts[0]?.[at]).not.toBe(parts[1]?.[at]);
    const [first] = made;
    if (first === undefined) throw new Error("nothing was created");
    expect(await shell(first, "echo $GIVEN")).toBe("yes");
    await shell(first, "echo kept > /workspace/note");
    expect((await change(first, "pause")).status).toBe("succeeded");
    expect((await change(first, "resume")).status).toBe("succeeded");
    expect(await shell(first, "cat /workspace/note")).toBe("kept");
  },
);
