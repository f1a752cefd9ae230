/**
 * The control plane itself (Postgres, NATS, every scheduler) is away for longer than lease and
 * margin, with real processes and simulated VMs. Hosts are silent only because no scheduler can
 * hear them, so no host is lost and no sandbox goes back to its snapshot. A host that died during
 * the outage is found.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { listVmProcesses } from "@torpor/fleet";
import { signalProcess } from "@torpor/service";
import {
  insist,
  relay,
  runCode,
  type SandboxResource,
  simulatedVcpusRun,
  startTestFleet,
  type TestFleet,
  until,
  VmmAuditor,
} from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

const HOSTS = 3;
const SANDBOXES = 5;
const LEASE_MS = 4_000;
const MARGIN_MS = 1_000;
const OUTAGE_MS = LEASE_MS + MARGIN_MS + 1_000;
/** Long enough for a host to be marked as lost, and for its sandboxes to be restored. */
const AFTER_MS = LEASE_MS + MARGIN_MS + 1_000;
const LIMIT_MS = 90_000;

let fleet: TestFleet;
let auditor: VmmAuditor;
let sandboxes: SandboxResource[];
beforeAll(async () => {
  const schedulerEnv = { LEASE_MS: String(LEASE_MS), HOST_LOSS_MARGIN_MS: String(MARGIN_MS) };
  fleet = await startTestFleet({ hosts: HOSTS, schedulers: 2, schedulerEnv });
  auditor = VmmAuditor.over(fleet.fleet.dir, simulatedVcpusRun);
  await until(
    "all hosts are ready, with fences",
    async () => (await hosts()).filter(isHealthy).length === HOSTS,
    LIMIT_MS,
  );
  sandboxes = await Promise.all(Array.from({ length: SANDBOXES }, runsOnAfterPause));
});
afterAll(async () => {
  await auditor[Symbol.asyncDispose]();
  await fleet[Symbol.asyncDispose]();
});

const hosts = () => insist(() => fleet.hosts(), LIMIT_MS);
const isHealthy = (host: Awaited<ReturnType<typeof hosts>>[number]) =>
  host.state === "ready" && host.has_fence;
const factsOf = async ({ id }: SandboxResource) =>
  (await insist(() => fleet.events(id), LIMIT_MS)).map(({ fact }) => fact);
async function noHostWasLost(): Promise<void> {
  for (const { id } of await hosts()) {
    const { data } = await insist(() => fleet.client.hosts.events(id), LIMIT_MS);
    expect(
      data.map(({ fact }) => fact),
      id,
    ).not.toContain("lost");
  }
}

/** Returns a running sandbox with `y` from after its newest snapshot, which is stored. */
async function runsOnAfterPause(): Promise<SandboxResource> {
  const { sandboxes } = fleet.client;
  const created = () => fleet.createSandbox({ on_host_loss: "restore" });
  const sandbox = await insist(created, LIMIT_MS);
  await insist(() => sandboxes.pause(sandbox.id, { waitFor: "replicated" }), LIMIT_MS);
  await insist(() => sandboxes.resume(sandbox.id), LIMIT_MS);
  await runCode(sandbox, "y = 43");
  return sandbox;
}

/** Polls until the agent of the sandbox answers. Returns what it has of `y`. */
const printed = (sandbox: SandboxResource) =>
  until(
    `${sandbox.id} answers`,
    () => runCode(sandbox, "print(y)").catch(() => undefined),
    LIMIT_MS,
  );

/** The sandbox continues with its memory once its host has a lease again. */
async function goesOn(sandbox: SandboxResource): Promise<void> {
  expect(await printed(sandbox)).toMatchObject({ stdout: "43\n" });
  expect(await factsOf(sandbox)).not.toContain("host_lost");
}

async function away(
  names: string[],
  meanwhile: () => Promise<void> = async () => {},
): Promise<void> {
  await Promise.all(names.map((name) => fleet.fleet.kill(name)));
  await meanwhile();
  await sleep(OUTAGE_MS);
  await Promise.all(names.map((name) => fleet.fleet.startComponent(name)));
  await sleep(AFTER_MS);
}

test.each([
  ["Postgres", ["postgres"]] as const,
  ["NATS", ["nats"]] as const,
  ["every scheduler", ["scheduler-1", "scheduler-2"]] as const,
])(
  "S33, S38, S39: %s is away for longer than a lease and the margin: no host is lost, and every sandbox goes on",
  async (_, names) => {
    await away([...names]);
    for (const sandbox of sandboxes) await goesOn(sandbox);
    await noHostWasLost();
  },
);

/**
 * Restarts the scheduler with its connection to `what` over a cable, and cuts the cable. Returns
 * the function that restores the direct connection.
 */
async function cutOff(
  name: string,
  what: "NATS_URL" | "DATABASE_URL",
): Promise<() => Promise<void>> {
  const component = fleet.fleet.component(name);
  const direct = component.env[what] ?? "";
  const { hostname: host, port } = new URL(direct);
  const cable = await relay({ host, port: 0 }, { host, port: Number(port) });
  component.env[what] = direct.replace(`${host}:${port}`, `${host}:${cable.port}`);
  await fleet.fleet.kill(name);
  await fleet.fleet.startComponent(name);
  cable.cut();
  return async () => {
    component.env[what] = direct;
    await fleet.fleet.kill(name);
    cable.close();
    await fleet.fleet.startComponent(name);
  };
}

test("a scheduler that has the database and no bus takes no host for lost, with another scheduler beside it or without", async () => {
  const mend = await cutOff("scheduler-1", "NATS_URL");
  await sleep(AFTER_MS);
  await away(["scheduler-2"]);
  await mend();
  for (const sandbox of sandboxes) await goesOn(sandbox);
});

test("a scheduler that has the bus and no database keeps no question from the other", async () => {
  const mend = await cutOff("scheduler-1", "DATABASE_URL");
  await sleep(2 * AFTER_MS);
  await mend();
  for (const sandbox of sandboxes) await goesOn(sandbox);
  await noHostWasLost();
});

test("a host that dies in an outage is lost after it, and it alone: what it ran is restored, the rest goes on", async () => {
  const placed = await Promise.all(
    sandboxes.map(async (sandbox) => ({
      sandbox,
      hostId: (await insist(() => fleet.client.sandboxes.get(sandbox.id), LIMIT_MS)).node_id,
    })),
  );
  const victim = placed[0]?.hostId ?? "";
  await away(["postgres"], async () => {
    await Promise.all([victim, `${victim}-fence`].map((name) => fleet.fleet.kill(name)));
    for (const vmm of await listVmProcesses(fleet.fleet.dir))
      if (vmm.hostId === victim) signalProcess(vmm, "SIGKILL");
  });
  for (const { sandbox, hostId } of placed) {
    if (hostId !== victim) {
      await goesOn(sandbox);
      continue;
    }
    await until(
      "it is restored",
      async () => (await factsOf(sandbox)).includes("host_lost"),
      LIMIT_MS,
    );
    await until(
      "it runs elsewhere",
      async () => {
        const seen = await insist(() => fleet.client.sandboxes.get(sandbox.id), LIMIT_MS);
        return seen.status === "running";
      },
      LIMIT_MS,
    );
    expect((await printed(sandbox)).stderr).toContain("NameError");
  }
});

test("all that while no sandbox ran twice at once", () => {
  expect(auditor.looks).toBeGreaterThan(100);
  expect(auditor.overlaps).toEqual([]);
});
