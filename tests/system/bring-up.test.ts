/**
 * `bringUp` starts the dead programs of a fleet again, and leaves the running ones alone. A fleet
 * of which only a virtual machine is left is still found and ended. Commands wait for each other,
 * or are refused. Simulated hosts.
 */
import { chmod } from "node:fs/promises";
import { join } from "node:path";
import { joinLab } from "@torpor/cli";
import { type Component, Fleet, listVmProcesses } from "@torpor/fleet";
import { isAlive } from "@torpor/service";
import {
  runCode,
  startTestFleet,
  tempDir,
  type TestFleet,
  undefinedIfRefused,
  until,
} from "@torpor/testkit";
import { afterEach, expect, onTestFinished, test } from "vitest";

const WORKING = ["scheduler", "gateway", "node-agent"];
const BUSY = "another command is starting or ending programs of the fleet";

let fleet: TestFleet;
afterEach(async () => {
  await fleet[Symbol.asyncDispose]();
});

const pids = (of: Fleet | undefined) =>
  Object.fromEntries(
    (of?.state.components ?? []).map(({ name, process: identity }) => [name, identity?.pid]),
  );

test("what was killed is started again, what runs is left alone, and the sandbox has noticed nothing", async () => {
  fleet = await startTestFleet({ hosts: 1, schedulers: 1, gateways: 2, natsServers: 3 });
  const sandbox = await fleet.createSandbox();
  await runCode(sandbox, "x = 42");
  const killed = ["nats-2", "scheduler-1", "host-1-fence", "host-1", "gateway-2"];
  for (const name of killed) await fleet.fleet.kill(name);
  const before = pids(fleet.fleet);

  // A later command finds the fleet in the same way: only from its files.
  const found = await Fleet.find(fleet.fleet.dir);
  const said: string[] = [];
  const started = found?.bringUp((line) => said.push(line));
  await expect(
    Fleet.find(fleet.fleet.dir).then(async (second) => await second?.bringUp(() => {})),
  ).rejects.toThrow(BUSY);
  await started;
  expect(said).toEqual([
    "starting nats-2",
    "starting scheduler-1, host-1-fence, host-1, gateway-2",
  ]);
  await until("all is well", async () =>
    (await found?.health())?.every(({ health }) => health.kind === "healthy"),
  );
  const after = pids(found);
  const restarted = Object.keys(after).filter((name) => after[name] !== before[name]);
  expect(restarted.toSorted()).toEqual(killed.toSorted());

  const printed = await until("the sandbox is served", () =>
    runCode(sandbox, "print(x)").catch(undefinedIfRefused),
  );
  expect(printed.stdout).toBe("42\n");

  await until("all say that their work goes on", async () => {
    const seen = (await found?.health()) ?? [];
    const facts = seen
      .filter(({ component }) => WORKING.includes(component.role))
      .map(({ health }) => health.kind === "healthy" && health.facts);
    return (
      facts.length === 4 &&
      facts.every((one) => one !== false && JSON.stringify(one["problems"]) === "[]")
    );
  });

  said.length = 0;
  await found?.bringUp((line) => said.push(line));
  expect(said).toEqual([]);
});

test("a fleet whose programs were all killed is found by its virtual machine, and ended", async () => {
  fleet = await startTestFleet({ hosts: 1, schedulers: 1 });
  await fleet.createSandbox();
  for (const { name } of fleet.fleet.state.components) await fleet.fleet.kill(name);
  expect(await listVmProcesses(fleet.fleet.dir)).toHaveLength(1);

  const found = await Fleet.find(fleet.fleet.dir);
  expect(found).toBeDefined();
  await found?.down();
  expect(await listVmProcesses(fleet.fleet.dir)).toEqual([]);
  expect(await Fleet.find(fleet.fleet.dir)).toBeUndefined();
});

test("one command at a time starts or ends programs, the next goes by what it has left, and down ends what either has started", async () => {
  fleet = await startTestFleet({ hosts: 1, schedulers: 1, natsServers: 3 });
  const find = async () => {
    const found = await Fleet.find(fleet.fleet.dir);
    if (found === undefined) throw new Error("the fleet is up");
    return found;
  };
  const [first, second, third] = [await find(), await find(), await find()];

  const rolling = first.rollingRestart(() => {});
  const before = pids(second);
  await until("a server is stopped", () => pids(first)["nats-1"] !== before["nats-1"]);
  await expect(second.bringUp(() => {})).rejects.toThrow(BUSY);
  await expect(second.restart("nats-1")).rejects.toThrow(BUSY);
  await expect(second.rollingRestart(() => {})).rejects.toThrow(BUSY);
  await expect(second.attach(labHost())).rejects.toThrow(BUSY);
  await rolling;

  // `second` was read before the rolling restart.
  const said: string[] = [];
  await second.bringUp((line) => said.push(line));
  expect(said).toEqual([]);
  expect(pids(second)).toEqual(pids(first));
  await second.attach(labHost());
  await expect(third.attach(labHost())).rejects.toThrow("lab-1 is up already");

  const restarting = first.restart("gateway-1");
  await until("it is stopped", () => pids(first)["gateway-1"] !== pids(second)["gateway-1"]);
  await third.down();
  await restarting;
  for (const handle of [first, second])
    for (const { name } of handle.state.components) expect(isUp(handle, name), name).toBe(false);
  expect(await Fleet.find(fleet.fleet.dir)).toBeUndefined();
});

test("who brings a lab host finds all of the fleet at work, though what was found was little more than a lab host", async () => {
  const root = await tempDir();
  onTestFinished(async () => await root[Symbol.asyncDispose]());
  await chmod(root.path, 0o711);
  fleet = await startTestFleet({ hosts: 1, schedulers: 1, dir: join(root.path, ".torpor/fleet") });
  await fleet.fleet.attach(labHost());
  const killed = ["postgres", "nats", "scheduler-1", "host-1", "gateway-1"];
  for (const name of killed) await fleet.fleet.kill(name);

  const said: string[] = [];
  const context = { root: root.path, args: [], write: (line: string) => said.push(line) };
  const { running } = await joinLab(context, "simulated", new AbortController().signal);
  expect(killed.filter((name) => running === undefined || !isUp(running, name))).toEqual([]);
  expect(said).toEqual([
    "fleet: starting postgres, nats, which did not run",
    "fleet: starting scheduler-1, host-1, gateway-1, which did not run",
    "lab: it is up already; ./torpor lab status shows it, ./torpor lab down ends it",
  ]);
});

/** A process that stands in for the machine of a lab host. */
function labHost(): Component {
  return {
    name: "lab-1",
    role: "lab",
    address: "-",
    command: process.execPath,
    args: ["--eval", "setInterval(() => {}, 1000)"],
    env: {},
    log: join(fleet.fleet.dir, "logs/lab-1.log"),
  };
}

function isUp(of: Fleet, name: string): boolean {
  const { process: identity } = of.component(name);
  return identity !== undefined && isAlive(identity);
}
