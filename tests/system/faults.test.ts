/**
 * Faults under load, with real processes in networks of their own. While clients create, write,
 * pause, resume, move and delete, a host dies or loses its network in one direction or both, or an
 * agent, a NATS server or Postgres is killed. Afterwards no sandbox ever ran twice at once (an
 * auditor reads the process list), no sandbox is lost, every acknowledged write is there, every
 * operation has ended, and the sums of capacity are right.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { hostIdAt, listVmProcesses } from "@torpor/fleet";
import { signalProcess } from "@torpor/service";
import {
  type EventResource,
  hostNetworkProblem,
  type HostNetwork,
  insist,
  isFinal,
  makeHostNetwork,
  readGuestFile,
  runCode,
  type SandboxResource,
  simulatedVcpusRun,
  startTestFleet,
  type TestFleet,
  until,
  VmmAuditor,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  ChaosClient,
  type Owned,
  type Possible,
  possibleAfterLoss,
  possibleAt,
} from "./support/chaos-client.ts";

const HOSTS = 3;
const CLIENTS = 5;
const LEASE_MS = 3_000;
const MARGIN_MS = 2_000;
/** Average number of answered requests per client, before the fault and after it. */
const WARM_UP_EACH = 6;
/** Longer than lease and margin, so that every pending restore happens during the fault. */
const FAULT_MS = LEASE_MS + MARGIN_MS + 3_000;
const QUIET_LIMIT_MS = 90_000;
const CASE_LIMIT_MS = 600_000;

interface Fault {
  name: string;
  /** No request can be answered during the fault. */
  stopsAll?: boolean;
  /** The fault ends VMs, so a sandbox may be found stopped. */
  endsVms?: boolean;
  /** One host is silent and the others are not, so its sandboxes may be restored from snapshots. */
  losesHost?: boolean;
  strike(): Promise<void>;
  heal(): Promise<void>;
}

const problem = await hostNetworkProblem();
const ground = new AsyncDisposableStack();
let fleet: TestFleet;
let network: HostNetwork;
let auditor: VmmAuditor;
let sql: postgres.Sql;

const VICTIM = hostIdAt(0);
const cut = (direction: "both" | "from-host" | "to-host"): Fault => ({
  name: `a host's network is cut, ${direction}`,
  losesHost: true,
  strike: async () => await network.hosts[0]?.cut(direction),
  heal: async () => await network.hosts[0]?.heal(),
});
const killed = (what: string, ...names: string[]): Fault => ({
  name: `${what} killed`,
  strike: async () => void (await Promise.all(names.map((name) => fleet.fleet.kill(name)))),
  heal: async () => void (await Promise.all(names.map((name) => fleet.fleet.startComponent(name)))),
});
const hostDies: Fault = {
  ...killed("a host with all that runs on it is", VICTIM, `${VICTIM}-fence`),
  endsVms: true,
  losesHost: true,
  strike: async () => {
    await Promise.all([VICTIM, `${VICTIM}-fence`].map((name) => fleet.fleet.kill(name)));
    for (const vmm of await listVmProcesses(fleet.fleet.dir))
      if (vmm.hostId === VICTIM) signalProcess(vmm, "SIGKILL");
  },
};

describe.skipIf(problem !== undefined)(
  `faults under load${problem === undefined ? "" : `: ${problem}`}`,
  () => {
    beforeAll(async () => {
      const schedulerEnv = { LEASE_MS: String(LEASE_MS), HOST_LOSS_MARGIN_MS: String(MARGIN_MS) };
      network = ground.use(await makeHostNetwork(HOSTS));
      const serverAddresses = [network.outside];
      fleet = ground.use(
        await startTestFleet({
          hosts: HOSTS,
          gateways: 2,
          schedulers: 2,
          natsServers: 3,
          schedulerEnv,
          serverAddresses,
        }),
      );
      await moveIntoNetwork();
      auditor = ground.use(VmmAuditor.over(fleet.fleet.dir, simulatedVcpusRun));
      sql = postgres(fleet.fleet.state.databaseUrl, { max: 1, onnotice: () => {} });
      ground.defer(() => sql.end({ timeout: 5 }));
    });
    afterAll(async () => {
      await ground.disposeAsync();
    });

    describe("S30, S34, S37: nothing is lost, doubled or stuck", () => {
      test.each([cut("to-host"), hostDies])("$name", { timeout: CASE_LIMIT_MS }, survives);

      test.each([
        cut("both"),
        cut("from-host"),
        { ...killed("an agent is", VICTIM), losesHost: true },
        killed("a NATS server is", "nats-2"),
        { ...killed("Postgres is", "postgres"), stopsAll: true },
      ])("$name", { timeout: CASE_LIMIT_MS, tags: ["exhaustive"] }, survives);
    });

    test("sandboxes were moved between hosts meanwhile", async () => {
      const [moves] =
        await sql`SELECT count(*)::int AS count FROM (SELECT sandbox_id FROM incarnations WHERE started_at IS NOT NULL GROUP BY 1 HAVING count(DISTINCT host_id) > 1) AS moved`;
      expect(moves?.["count"]).toBeGreaterThan(0);
    });
  },
);

/**
 * Restarts each agent in a network namespace of its own, with all other programs at the other end
 * of a cable.
 */
async function moveIntoNetwork(): Promise<void> {
  for (const url of fleet.fleet.state.natsUrl.split(","))
    await network.carry(Number(new URL(url).port));
  for (const [at, { prefix, address }] of network.hosts.entries()) {
    const component = fleet.fleet.component(hostIdAt(at));
    await fleet.fleet.kill(component.name);
    const [program = "", ...rest] = prefix;
    component.args = [...rest, component.command, ...component.args];
    component.command = program;
    component.healthUrl = (component.healthUrl ?? "").replace("127.0.0.1", address);
    const natsUrl = component.env["NATS_URL"]?.replaceAll("127.0.0.1", network.outside) ?? "";
    Object.assign(component.env, {
      NATS_URL: natsUrl,
      HEALTH_HOST: address,
      DATA_PLANE_HOST: address,
    });
    await fleet.fleet.startComponent(component.name);
  }
}

async function survives(fault: Fault): Promise<void> {
  const stopped = new AbortController();
  const clients = Array.from(
    { length: CLIENTS },
    (_, at) => new ChaosClient(fleet, `${fault.name}-${at}`.replaceAll(/\W+/g, "-"), at + 1),
  );
  const work = Promise.all([
    ...clients.map((client) => client.work(stopped.signal)),
    keepMoving(stopped.signal),
  ]);
  const failed = work.then(() => new Promise<never>(() => {}));
  const answered = () => clients.reduce((sum, client) => sum + client.answered, 0);
  const story = async () => {
    await until(
      "the clients are at work",
      () => answered() > WARM_UP_EACH * CLIENTS,
      QUIET_LIMIT_MS,
    );
    const victim = fault.losesHost === true ? await runsOnVictim() : undefined;
    await fault.strike();
    const before = answered();
    await sleep(FAULT_MS);
    if (fault.stopsAll !== true)
      expect(answered(), "answers during the fault").toBeGreaterThan(before);
    if (victim !== undefined) await isRestored(victim);
    await fault.heal();
    await allReady();
    const after = answered();
    await until(
      "the clients are served again",
      () => answered() > after + WARM_UP_EACH * CLIENTS,
      QUIET_LIMIT_MS,
    );
  };
  try {
    await Promise.race([story(), failed]);
  } finally {
    stopped.abort();
    await fault.heal().catch(() => {});
  }
  await work;
  await allReady();
  await until(
    "every operation has ended",
    async () => (await sql`SELECT id FROM operations WHERE ended_at IS NULL`).length === 0,
    QUIET_LIMIT_MS,
  );
  for (const client of clients) for (const owned of client.owned) await check(owned, fault);
  await inTheDatabase(clients.flatMap((client) => client.owned));
  expect(auditor.overlaps, "sandboxes that ran twice at once").toEqual([]);
  expect(auditor.looks).toBeGreaterThan(100);
  for (const client of clients)
    for (const { id } of client.living()) await tried(() => fleet.client.sandboxes.delete(id));
}

/** Undefined when the request was refused, or had no response in time. */
const tried = async <T>(what: () => Promise<T>, limitMs?: number): Promise<T | undefined> =>
  await insist(what, limitMs).catch(() => undefined);

/**
 * Returns a sandbox on the victim that is to be restored on host loss, with `x` from before its
 * stored snapshot and `y` from after it.
 */
async function runsOnVictim(): Promise<SandboxResource> {
  const { sandboxes } = fleet.client;
  for (let tries = 0; tries < 50; tries += 1) {
    const made = await tried(() => fleet.createSandbox({ on_host_loss: "restore" }));
    if (made === undefined) continue;
    await tried(() => runCode(made, "x = 42"));
    await tried(() => sandboxes.pause(made.id, { waitFor: "replicated" }));
    await tried(() => sandboxes.resume(made.id));
    await tried(() => runCode(made, "y = 43"));
    const seen = await tried(() => sandboxes.get(made.id));
    if (seen?.status === "running" && seen.node_id === VICTIM) return made;
    await tried(() => sandboxes.delete(made.id));
  }
  throw new Error(`no sandbox came to run on ${VICTIM}`);
}

/** Waits until the sandbox is restored elsewhere, while its host is still away. */
async function isRestored(sandbox: SandboxResource): Promise<void> {
  const { sandboxes } = fleet.client;
  const print = (name: string) => insist(() => runCode(sandbox, `print(${name})`));
  await until(
    "it runs elsewhere",
    async () => {
      const seen = await tried(() => sandboxes.get(sandbox.id));
      return seen?.status === "running" && seen.node_id !== VICTIM;
    },
    QUIET_LIMIT_MS,
  );
  expect(await print("x")).toMatchObject({ stdout: "42\n" });
  expect(await print("y")).toMatchObject({
    stderr: expect.stringContaining("NameError") as string,
  });
  await tried(() => sandboxes.delete(sandbox.id));
}

/** Cordons one host after the other: a sandbox paused on a cordoned host resumes on another one. */
async function keepMoving(signal: AbortSignal): Promise<void> {
  const { hosts } = fleet.client;
  for (let at = 1; !signal.aborted; at += 1) {
    const id = hostIdAt(at % HOSTS);
    await tried(() => hosts.cordon(id), 10_000);
    await sleep(1_500);
    await tried(() => hosts.uncordon(id), 60_000);
  }
}

async function allReady(): Promise<void> {
  const hosts = async () => (await tried(() => fleet.hosts())) ?? [];
  await until(
    "all hosts are ready, with fences",
    async () =>
      (await hosts()).filter((host) => host.state === "ready" && host.has_fence).length === HOSTS,
    QUIET_LIMIT_MS,
  );
}

/**
 * Checks that the sandbox has the state and the data that its client knows, or that the loss of its
 * host explains, and that the sandbox still works.
 */
async function check(owned: Owned, fault: Fault): Promise<void> {
  const { id, resource } = owned;
  const { sandboxes } = fleet.client;
  const seen = await insist(() => sandboxes.get(id)).catch((error: unknown) => {
    if (isFinal(error) && error.status === 404) return undefined;
    throw error;
  });
  if (seen === undefined || seen.status === "deleted") {
    expect(owned.deleteAsked, `${id} is gone, and nobody had it deleted`).toBe(true);
    owned.isDeleted = true;
    return;
  }
  const { status } = seen;
  expect(owned.isDeleted, `${id} was deleted, and is ${status}`).toBe(false);
  const events = await insist(() => fleet.events(id));
  const facts = events.map(({ fact }) => fact);
  const told = `${id}: ${JSON.stringify(seen)} after ${facts.join(" ")}`;
  expect(
    status === "stopped" ? fault.endsVms === true : status === "running" || status === "paused",
    told,
  ).toBe(true);
  if (status !== "running")
    await insist(() => sandboxes[status === "paused" ? "resume" : "start"](id)).catch(
      (cause: unknown) => {
        throw new Error(`${told}, then ${String(cause)}`, { cause });
      },
    );
  const loss = events.findLast(({ fact }) => fact === "host_lost");
  if (loss !== undefined) expect(fault.losesHost, told).toBe(true);
  const possible = (written: Owned["disk"]) =>
    loss === undefined
      ? possibleAt(written)
      : possibleAfterLoss(written, snapshotAtMs(loss), Date.parse(loss.occurred_at));
  const content = await insist(() => readGuestFile(resource, "/workspace/value"));
  expectWritten(
    possible(owned.disk),
    content === null ? undefined : Number(content),
    `the file of ${told}`,
  );
  // Memory ends with its VM.
  if (status === "stopped" || facts.includes("stopped")) return;
  const { stdout, stderr } = await insist(() => runCode(resource, "print(x)"));
  expectWritten(
    possible(owned.memory),
    stderr.includes("NameError") ? undefined : Number(stdout),
    `x of ${told}`,
  );
}

/** The message of the event contains the time of the snapshot. */
function snapshotAtMs({ cause }: EventResource): number {
  return Date.parse(/ of (\S+Z), /.exec(cause?.message ?? "")?.[1] ?? "");
}

function expectWritten(
  { values, isAcknowledged }: Possible,
  found: number | undefined,
  what: string,
): void {
  if (found === undefined) expect(isAcknowledged, `${what} is not there`).toBe(false);
  else expect(values, what).toContain(found);
}

/**
 * Checks that the database has no sandbox that no client knows, and that the used capacity is the
 * sum over the existing sandboxes.
 */
async function inTheDatabase(known: Owned[]): Promise<void> {
  const living = await sql<
    { id: string }[]
  >`SELECT id FROM sandboxes WHERE state NOT IN ('deleted', 'deleting', 'error')`;
  const expected = known.filter(({ isDeleted }) => !isDeleted).map(({ id }) => id);
  expect(living.map(({ id }) => id).toSorted()).toEqual(expected.toSorted());
  const sums = await sql<{ id: string; used: number[]; taken: number[] }[]>`
    SELECT h.id, array[h.vcpu_used, h.memory_mib_used, h.disk_mib_used] AS used,
      array[coalesce(sum(s.vcpu) FILTER (WHERE s.holds_memory), 0), coalesce(sum(s.memory_mib) FILTER (WHERE s.holds_memory), 0),
        coalesce(sum(s.disk_mib), 0)]::int[] AS taken
    FROM hosts h LEFT JOIN sandboxes s ON s.host_id = h.id AND s.state <> 'deleted' GROUP BY h.id`;
  for (const { id, used, taken } of sums)
    expect(used, `vCPUs, memory and disk used on ${id}`).toEqual(taken);
  expect(sums.some(({ taken }) => taken.every((amount) => amount > 0))).toBe(true);
}
