/**
 * A host is lost, with real processes and simulated VMs. Timestamps show that a VM is frozen before
 * its sandbox is restored elsewhere, and an auditor sees no sandbox run twice. The lease is short
 * here, and the margin is long enough for a host to come back within it.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { listVmProcesses, type VmProcess } from "@torpor/fleet";
import { isAlive, stateOf } from "@torpor/service/processes";
import {
  type CreateSandboxBody,
  relay,
  type Relay,
  runCode,
  type SandboxResource,
  simulatedVcpusRun,
  startTestFleet,
  type TestFleet,
  until,
  VmmAuditor,
} from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

const LEASE_MS = 2_000;
const MARGIN_MS = 6_000;
const LIMIT_MS = 60_000;
/** Long enough that a restore or an end that must not happen would have happened. */
const SOME_LEASES_MS = 2 * (LEASE_MS + MARGIN_MS);

let fleet: TestFleet;
let auditor: VmmAuditor;
beforeAll(async () => {
  fleet = await startTestFleet({
    hosts: 3,
    schedulerEnv: { LEASE_MS: String(LEASE_MS), HOST_LOSS_MARGIN_MS: String(MARGIN_MS) },
  });
  auditor = VmmAuditor.over(fleet.fleet.dir, simulatedVcpusRun);
  await allReady();
});
afterEach(async () => {
  // A test that failed half-way may have left programs stopped.
  for (const { name } of fleet.fleet.state.components) {
    fleet.fleet.signal(name, "SIGCONT");
    await fleet.fleet.startComponent(name);
  }
  await fleet.deleteSandboxes();
  await allReady();
});
afterAll(async () => {
  await auditor[Symbol.asyncDispose]();
  await fleet[Symbol.asyncDispose]();
});

const get = ({ id }: SandboxResource) => fleet.client.sandboxes.get(id);
const event = ({ id }: SandboxResource, fact: string) =>
  until(
    `the event ${fact}`,
    async () => (await fleet.events(id)).findLast((one) => one.fact === fact),
    LIMIT_MS,
  );
const hostIs = (id: string, state: string) =>
  fleet.untilHost(`${id} is ${state}`, id, (host) => host.state === state, LIMIT_MS);
const allReady = () =>
  until(
    "all hosts are ready, with fences",
    async () =>
      (await fleet.hosts()).filter((host) => host.state === "ready" && host.has_fence).length === 3,
    LIMIT_MS,
  );
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function pauseStored({ id }: SandboxResource): Promise<void> {
  await fleet.client.sandboxes.pause(id);
  const isStored = (seen: SandboxResource) => seen.durability === "replicated";
  await fleet.untilSandbox("it is replicated", id, isStored, LIMIT_MS);
}

/** Returns a running sandbox with `x` from before its newest snapshot, and `y` from after it. */
async function runsOnAfterPause(
  body: CreateSandboxBody = { on_host_loss: "restore" },
): Promise<{ sandbox: SandboxResource; hostId: string; vmm: VmProcess }> {
  const sandbox = await fleet.createSandbox(body);
  await runCode(sandbox, "x = 42");
  await pauseStored(sandbox);
  await fleet.client.sandboxes.resume(sandbox.id);
  await runCode(sandbox, "y = 43");
  const { node_id: hostId = "" } = await get(sandbox);
  return { sandbox, hostId, vmm: await vmmOf(sandbox, hostId) };
}

async function vmmOf(sandbox: SandboxResource, hostId: string): Promise<VmProcess> {
  const all = await listVmProcesses(fleet.fleet.dir);
  const vmm = all.find((one) => one.sandboxId === sandbox.id && one.hostId === hostId);
  if (vmm === undefined) throw new Error(`${hostId} has no VMM of ${sandbox.id}`);
  return vmm;
}

const frozenFile = (hostId: string, sandbox: SandboxResource) =>
  join(fleet.fleet.dir, "hosts", hostId, "fence/frozen", `${sandbox.id}.json`);
const readFrozen = async (hostId: string, sandbox: SandboxResource) =>
  JSON.parse(await readFile(frozenFile(hostId, sandbox), "utf8")) as {
    pid: number;
    frozenAt: string;
    frozenAtBootMs: number;
  };
const isFrozen = (hostId: string, sandbox: SandboxResource) =>
  until(
    `${sandbox.id} is frozen on ${hostId}`,
    () => readFrozen(hostId, sandbox).catch(() => undefined),
    LIMIT_MS,
  );

/**
 * Restarts the host's agent with its NATS connection over the cable. Returns the function that
 * restores the direct connection.
 */
async function connectBy(cable: Relay, hostId: string): Promise<() => Promise<void>> {
  const component = fleet.fleet.component(hostId);
  const direct = component.env["NATS_URL"] ?? "";
  component.env["NATS_URL"] = `tls://127.0.0.1:${cable.port}`;
  await fleet.fleet.kill(hostId);
  await fleet.fleet.startComponent(hostId);
  return async () => {
    component.env["NATS_URL"] = direct;
    await fleet.fleet.kill(hostId);
    await fleet.fleet.startComponent(hostId);
    cable.close();
  };
}

type Loss = "killed" | "stopped" | "cut off" | "cut off, then killed";

/** Returns the function that ends the loss. */
async function lose(hostId: string, how: Loss): Promise<() => Promise<void>> {
  if (how === "killed") {
    await fleet.fleet.kill(hostId);
    return async () => await fleet.fleet.startComponent(hostId);
  }
  if (how === "stopped") {
    fleet.fleet.signal(hostId, "SIGSTOP");
    return async () => fleet.fleet.signal(hostId, "SIGCONT");
  }
  const { hostname: host, port } = new URL(fleet.fleet.state.natsUrl);
  const cable = await relay({ host, port: 0 }, { host, port: Number(port) });
  const comeBack = await connectBy(cable, hostId);
  await hostIs(hostId, "ready");
  cable.cut();
  if (how === "cut off, then killed") await fleet.fleet.kill(hostId);
  return comeBack;
}

async function isRestoredOnce(how: Loss): Promise<void> {
  const { sandbox, hostId, vmm } = await runsOnAfterPause();
  const waits = await fleet.createSandbox();
  const comeBack = await lose(hostId, how);
  const frozen = await isFrozen(hostId, sandbox);
  expect(frozen.pid).toBe(vmm.pid);
  const moved = await fleet.untilSandbox(
    "it runs on another host",
    sandbox.id,
    (seen) => seen.status === "running" && seen.node_id !== hostId,
    LIMIT_MS,
  );
  const replacement = await vmmOf(sandbox, moved.node_id ?? "");
  // Both times count from the boot. The start of a process is known to the hundredth of a second.
  expect(Number(replacement.startTime) * 10 - frozen.frozenAtBootMs).toBeGreaterThan(0);
  expect(stateOf(vmm)).toBe("T");
  expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
  expect((await runCode(sandbox, "print(y)")).stderr).toContain("NameError");
  const told = await event(sandbox, "host_lost");
  expect(told.cause).toMatchObject({
    code: "HOST_LOST",
    message: expect.stringMatching(/snapshot 1 of 2.*Z, \d+ s ago/) as string,
  });

  await comeBack();
  await hostIs(hostId, "ready");
  await until("the old VM is ended", () => !isAlive(vmm), LIMIT_MS);
  expect(await get(sandbox)).toMatchObject({ status: "running", node_id: moved.node_id });
  expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
  expect(await get(waits)).toMatchObject({ status: "running" });
}

describe("on_host_loss: restore", () => {
  describe("S30: its VM stands before another runs, from the newest stored snapshot; back again, the old one is discarded where it stands", () => {
    test.each(["killed", "cut off"] as const)("the agent is %s", isRestoredOnce);
    test.each(["stopped", "cut off, then killed"] as const)(
      "the agent is %s",
      { tags: ["exhaustive"] },
      isRestoredOnce,
    );
  });

  test("a host that comes back before anybody else has it gets its VM back, with all that it knew", async () => {
    const { sandbox, hostId, vmm } = await runsOnAfterPause();
    fleet.fleet.signal(hostId, "SIGSTOP");
    await isFrozen(hostId, sandbox);
    fleet.fleet.signal(hostId, "SIGCONT");
    await until("it goes on", () => stateOf(vmm) !== "T", LIMIT_MS);
    expect(await runCode(sandbox, "print(y)")).toMatchObject({ stdout: "43\n" });
    await sleep(SOME_LEASES_MS);
    expect(await get(sandbox)).toMatchObject({ status: "running", node_id: hostId });
    expect((await fleet.events(sandbox.id)).map(({ fact }) => fact)).not.toContain("host_lost");
    expect(isAlive(vmm)).toBe(true);
  });

  test("without a snapshot in the store it waits for its host, frozen, says so, and goes on where it stood", async () => {
    const sandbox = await fleet.createSandbox({ on_host_loss: "restore" });
    await runCode(sandbox, "x = 42");
    const { node_id: hostId = "" } = sandbox;
    const vmm = await vmmOf(sandbox, hostId);
    await fleet.fleet.kill(hostId);
    expect((await event(sandbox, "restore_impossible")).cause?.code).toBe("NOTHING_TO_RESTORE");
    expect(await get(sandbox)).toMatchObject({ status: "running", condition: "host_unreachable" });
    expect(stateOf(vmm)).toBe("T");
    await fleet.fleet.startComponent(hostId);
    await until("it goes on", () => stateOf(vmm) !== "T", LIMIT_MS);
    await hostIs(hostId, "ready");
    expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
  });

  test("without its fence a host gets none of them, says so, and what it has is left alone when it is lost", async () => {
    const { sandbox, hostId, vmm } = await runsOnAfterPause();
    await fleet.fleet.kill(`${hostId}-fence`);
    await fleet.untilHost("the API says so", hostId, (host) => !host.has_fence, LIMIT_MS);
    const health = (await fetch(fleet.fleet.component(hostId).healthUrl ?? "")).json();
    expect(await health).toMatchObject({ fence: { isAlive: false } });
    for (let made = 0; made < 3; made += 1)
      expect((await fleet.createSandbox({ on_host_loss: "restore" })).node_id).not.toBe(hostId);
    await fleet.fleet.kill(hostId);
    expect((await event(sandbox, "restore_impossible")).cause?.code).toBe("HOST_NOT_FENCED");
    expect(stateOf(vmm)).not.toBe("T");
    await fleet.fleet.startComponent(`${hostId}-fence`);
    await fleet.fleet.startComponent(hostId);
    await hostIs(hostId, "ready");
    await until("it goes on, or never stood", () => stateOf(vmm) !== "T", LIMIT_MS);
    expect(await runCode(sandbox, "print(y)")).toMatchObject({ stdout: "43\n" });
  });
});

test("on_host_loss: wait goes on beside an agent that is gone, and is there when it comes back", async () => {
  const { sandbox, hostId, vmm } = await runsOnAfterPause({});
  await fleet.fleet.kill(hostId);
  await hostIs(hostId, "lost");
  await sleep(SOME_LEASES_MS);
  expect(await get(sandbox)).toMatchObject({
    status: "running",
    node_id: hostId,
    condition: "host_unreachable",
  });
  expect(stateOf(vmm)).not.toBe("T");
  await fleet.fleet.startComponent(hostId);
  await hostIs(hostId, "ready");
  expect(await runCode(sandbox, "print(y)")).toMatchObject({ stdout: "43\n" });
});

test("a paused sandbox whose snapshot is in the store is resumed elsewhere when its origin is lost, and the copy there is discarded afterwards", async () => {
  const sandbox = await fleet.createSandbox();
  await runCode(sandbox, "x = 42");
  await pauseStored(sandbox);
  const { node_id: origin = "" } = await get(sandbox);
  await fleet.fleet.kill(origin);
  await hostIs(origin, "lost");
  await fleet.client.sandboxes.resume(sandbox.id);
  expect((await get(sandbox)).node_id).not.toBe(origin);
  expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
  await fleet.fleet.startComponent(origin);
  const copy = join(fleet.fleet.dir, "hosts", origin, "vm", sandbox.id, "vm.json");
  await until(
    "the copy is discarded",
    () =>
      readFile(copy).then(
        () => false,
        () => true,
      ),
    LIMIT_MS,
  );
  expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
});

test("all that while no sandbox ran twice at once", () => {
  expect(auditor.looks).toBeGreaterThan(100);
  expect(auditor.overlaps).toEqual([]);
});
