/** What died of a fleet is brought up again in one go, beside what runs; and a fleet of which nothing is left but a virtual machine is still found, and ended. Simulated hosts. */
import { Fleet, listVmProcesses } from "@torpor/fleet";
import { SIMULATED_TEMPLATE, startTestFleet, type TestFleet, until } from "@torpor/testkit";
import { afterEach, expect, test } from "vitest";

let fleet: TestFleet;
afterEach(async () => {
  // From the files: the test's own handle does not know what another one has started.
  await (await Fleet.find(fleet.fleet.dir))?.down();
  await fleet[Symbol.asyncDispose]();
});

async function createSandbox(): Promise<Record<string, unknown>> {
  const { status, body } = await fleet.call("POST", "/v1/sandboxes", { body: { template_name: SIMULATED_TEMPLATE } });
  expect(status).toBe(201);
  return body;
}

const pids = (of: Fleet | undefined) =>
  Object.fromEntries((of?.state.components ?? []).map(({ name, process: identity }) => [name, identity?.pid]));

test("what was killed is started again, what runs is left alone, and the sandbox has noticed nothing", async () => {
  fleet = await startTestFleet({ hosts: 1, schedulers: 1, gateways: 2, natsServers: 3 });
  const sandbox = await createSandbox();
  expect((await fleet.guest(sandbox, "/execute", { code: "x = 42" })).status).toBe(200);
  const killed = ["nats-2", "scheduler-1", "host-1-fence", "host-1", "gateway-2"];
  for (const name of killed) await fleet.fleet.kill(name);
  const before = pids(fleet.fleet);

  // As a later command does: from the files alone.
  const found = await Fleet.find(fleet.fleet.dir);
  const said: string[] = [];
  const started = found?.bringUp((line) => said.push(line));
  await expect(Fleet.find(fleet.fleet.dir).then(async (second) => await second?.bringUp(() => {}))).rejects.toThrow(
    "another command is starting the fleet",
  );
  await started;
  expect(said).toEqual(["starting nats-2", "starting scheduler-1, host-1-fence, host-1, gateway-2"]);
  await until("all is well", async () => (await found?.health())?.every(({ health }) => health.kind === "well"));
  const after = pids(found);
  const restarted = Object.keys(after).filter((name) => after[name] !== before[name]);
  expect(restarted.toSorted()).toEqual(killed.toSorted());

  const answer = await until("the sandbox is served", async () => {
    const seen = await fleet.guest(sandbox, "/execute", { code: "print(x)" });
    return seen.status === 200 ? seen : undefined;
  });
  expect(answer.body["stdout"]).toBe("42\n");

  said.length = 0;
  await found?.bringUp((line) => said.push(line));
  expect(said).toEqual([]);
});

test("a fleet whose programs were all killed is found by its virtual machine, and ended", async () => {
  fleet = await startTestFleet({ hosts: 1, schedulers: 1 });
  await createSandbox();
  for (const { name } of fleet.fleet.state.components) await fleet.fleet.kill(name);
  expect(await listVmProcesses(fleet.fleet.dir)).toHaveLength(1);

  const found = await Fleet.find(fleet.fleet.dir);
  expect(found).toBeDefined();
  await found?.down();
  expect(await listVmProcesses(fleet.fleet.dir)).toEqual([]);
  expect(await Fleet.find(fleet.fleet.dir)).toBeUndefined();
});
