/**
 * kill -9 of each component while operations run: each operation still ends, and the sandbox has
 * the state that the API reports. Simulated hosts; tests/vm has the same on real VMs.
 */
import {
  insist,
  insistOnDelete,
  runCode,
  startTestFleet,
  type TestFleet,
  transition,
} from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet({ gateways: 2 });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const VICTIMS = ["gateway-1", "scheduler-1", "host-1", "nats", "postgres"];

async function survives(victim: string): Promise<void> {
  const made = await Promise.all(
    Array.from({ length: 3 }, async (_, at) => {
      const sandbox = await fleet.createSandbox({}, { idempotencyKey: `${victim}-${at}` });
      await runCode(sandbox, `x = ${at + 40}`);
      return sandbox;
    }),
  );
  for (const verb of ["pause", "resume"] as const) {
    const moved = Promise.all(made.map(({ id }) => transition(fleet, id, verb)));
    // `await moved` reports a failure.
    moved.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 60));
    await fleet.fleet.kill(victim);
    await new Promise((resolve) => setTimeout(resolve, 300));
    await fleet.fleet.startComponent(victim);
    await moved;
  }
  for (const [at, sandbox] of made.entries()) {
    const seen = await insist(() => fleet.client.sandboxes.get(sandbox.id));
    expect(seen).toMatchObject({ status: "running" });
    expect(seen.operation).toBeUndefined();
    const printed = await insist(() => runCode(sandbox, "print(x)"));
    expect(printed, JSON.stringify(printed)).toMatchObject({ stdout: `${at + 40}\n` });
    await insistOnDelete(fleet, sandbox.id);
  }
  const hosts = await insist(() => fleet.hosts());
  await expect
    .poll(async () => (await fleet.hosts()).map(({ used }) => used.memory_mb), { timeout: 60_000 })
    .toEqual(hosts.map(() => 0));
}

test.each(VICTIMS)(
  "S3, S33, S39, S40: kill -9 of %s while sandboxes are paused and resumed",
  survives,
);
