/**
 * Every program of the fleet is restarted in turn while clients create, use, pause, resume and
 * delete sandboxes. Every acknowledged request has happened once: in the database, on the hosts and
 * in the memory of each sandbox. Simulated hosts. The clients repeat a request after a broken
 * connection or a 5xx, as the SDKs do, and take every other response as final.
 */
import { listVmProcesses } from "@torpor/fleet";
import {
  insist,
  insistOnDelete,
  runCode,
  type SandboxResource,
  startTestFleet,
  type TestFleet,
  until,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, expect, test } from "vitest";

const CLIENTS = 4;
const LEFT_EACH = 2;
const MEMORY_MIB = 64;
/** Rounds of each client before the first program is restarted. */
const WARM_UP_ROUNDS = 1;

type Verb = "pause" | "resume" | "delete";

let fleet: TestFleet;
let sql: postgres.Sql;
beforeAll(async () => {
  fleet = await startTestFleet({ hosts: 3, gateways: 2, schedulers: 2, natsServers: 3 });
  sql = postgres(fleet.fleet.state.databaseUrl, { max: 1, onnotice: () => {} });
});
afterAll(async () => {
  await sql.end({ timeout: 5 });
  await fleet[Symbol.asyncDispose]();
});

/** A sandbox as its client knows it, and the number of acknowledged requests. */
interface Known {
  sandbox: SandboxResource;
  state: "running" | "paused" | "deleted";
  value: number;
  acknowledged: Record<Verb, number>;
}

class Client {
  readonly known: Known[] = [];
  rounds = 0;
  private readonly number: number;

  constructor(number: number) {
    this.number = number;
  }

  /**
   * Creates sandboxes one after the other, and takes each through pauses and resumes, until the
   * signal. Only the newest are left, every second one paused.
   */
  async work(signal: AbortSignal): Promise<void> {
    for (; !signal.aborted; this.rounds += 1) {
      const known = await this.create();
      for (let turn = 0; turn < 2; turn += 1) {
        await this.set(known);
        await this.move(known, "pause");
        if (turn === 1 && this.rounds % 2 === 0) break;
        await this.move(known, "resume");
        await check(known);
      }
      const old = this.known.filter(({ state }) => state !== "deleted").slice(0, -LEFT_EACH);
      for (const one of old) await this.move(one, "delete");
    }
  }

  private async create(): Promise<Known> {
    const key = `client-${this.number}-${this.known.length}`;
    const known: Known = {
      sandbox: await insist(() => fleet.createSandbox({}, { idempotencyKey: key })),
      state: "running",
      value: 0,
      acknowledged: { pause: 0, resume: 0, delete: 0 },
    };
    this.known.push(known);
    return known;
  }

  private async set(known: Known): Promise<void> {
    known.value += 1;
    await execute(known, `x = ${known.value}`);
  }

  private async move(known: Known, verb: Verb): Promise<void> {
    const { id } = known.sandbox;
    // A delete that is repeated after a broken connection may find the sandbox already deleted.
    if (verb === "delete") await insistOnDelete(fleet, id);
    else await insist(() => fleet.client.sandboxes[verb](id));
    known.acknowledged[verb] += 1;
    known.state = { pause: "paused", resume: "running", delete: "deleted" }[verb] as Known["state"];
  }
}

const execute = ({ sandbox }: Known, code: string) => insist(() => runCode(sandbox, code));

async function check(known: Known): Promise<void> {
  const printed = await execute(known, "print(x)");
  expect(printed, JSON.stringify(printed)).toMatchObject({ stdout: `${known.value}\n` });
}

test("S33, S37, S39: a rolling restart of the whole fleet under load loses nothing that was acknowledged, and leaves nothing stuck or double", async () => {
  const before = new Map(
    fleet.fleet.state.components.map(({ name, process }) => [name, process?.pid]),
  );
  const clients = Array.from({ length: CLIENTS }, (_, at) => new Client(at + 1));
  const stopped = new AbortController();
  const work = clients.map((client) => client.work(stopped.signal));
  const failed = Promise.race(work.map((one) => one.then(() => new Promise<never>(() => {}))));
  const restarts = async () => {
    await until(
      "each client is at work",
      () => clients.every(({ rounds }) => rounds >= WARM_UP_ROUNDS),
      60_000,
    );
    await fleet.fleet.rollingRestart(() => {});
    const goals = clients.map(({ rounds }) => rounds + 1);
    await until(
      "each client is served again",
      () => clients.every(({ rounds }, at) => rounds >= (goals[at] ?? 0)),
      60_000,
    );
  };
  try {
    await Promise.race([restarts(), failed]);
  } finally {
    stopped.abort();
  }
  await Promise.all(work);

  // Every program but Postgres is a new process.
  const same = fleet.fleet.state.components
    .filter(({ name, process }) => process?.pid === before.get(name))
    .map(({ name }) => name);
  expect(same).toEqual(["postgres"]);

  const known = clients.flatMap((client) => client.known);
  // A delete is acknowledged by its tombstone; the host's clean-up comes after it.
  await until(
    "nothing is under way any more, and no clean-up is owed",
    async () =>
      (
        await sql`SELECT id FROM operations WHERE ended_at IS NULL UNION ALL SELECT id FROM sandboxes WHERE state = 'deleting'`
      ).length === 0,
    30_000,
  );
  await inTheDatabase(known);
  await onTheHosts(known);
  for (const client of clients)
    for (const one of client.known) if (one.state === "running") await check(one);
}, 300_000);

/**
 * Every acknowledged operation is a row that succeeded. The database has exactly the sandboxes that
 * were created, each in the state that its client knows.
 */
async function inTheDatabase(known: Known[]): Promise<void> {
  const rows = await sql<
    { id: string; state: string; pauses: number; resumes: number; deletes: number }[]
  >`
    SELECT s.id, s.state,
      count(*) FILTER (WHERE o.kind = 'pause' AND o.status = 'succeeded')::int AS pauses,
      count(*) FILTER (WHERE o.kind = 'resume' AND o.status = 'succeeded')::int AS resumes,
      count(*) FILTER (WHERE o.kind = 'delete' AND o.status = 'succeeded')::int AS deletes
    FROM sandboxes s JOIN operations o ON o.sandbox_id = s.id GROUP BY s.id`;
  const byId = (one: { id: unknown }, other: { id: unknown }) =>
    String(one.id).localeCompare(String(other.id));
  const expected = known.map(({ sandbox, state, acknowledged }) => ({
    id: sandbox.id,
    state,
    pauses: acknowledged.pause,
    resumes: acknowledged.resume,
    deletes: acknowledged.delete,
  }));
  expect([...rows].toSorted(byId)).toEqual(expected.toSorted(byId));
}

/**
 * Each running sandbox has one VM, there is no other VM, and the used memory is that of the running
 * sandboxes.
 */
async function onTheHosts(known: Known[]): Promise<void> {
  const running = known.filter(({ state }) => state === "running").map(({ sandbox }) => sandbox.id);
  await until("one VM for each that runs", async () => {
    const vms = (await listVmProcesses(fleet.fleet.dir)).map(({ sandboxId }) => sandboxId);
    return JSON.stringify(vms.toSorted()) === JSON.stringify(running.toSorted());
  });
  const [sums] = await sql`SELECT sum(memory_mib_used)::int AS used FROM hosts`;
  expect(sums?.["used"]).toBe(running.length * MEMORY_MIB);
}
