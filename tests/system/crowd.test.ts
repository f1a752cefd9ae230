/** More creates at once than the fleet has room for, on hosts that start two at a time. */
import { glob, readFile } from "node:fs/promises";
import { join } from "node:path";
import { startTestFleet, type TestFleet, until } from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, expect, test } from "vitest";

const HOSTS = ["host-1", "host-2"];
const STARTS_AT_ONCE = 2;
const ROOM_PER_HOST = 7;
const SANDBOX_MIB = 64;
const ROOM = HOSTS.length * ROOM_PER_HOST;
const CROWD = 30;

let fleet: TestFleet;
let sql: postgres.Sql;
beforeAll(async () => {
  fleet = await startTestFleet({
    hostEnv: {
      CAPACITY_VCPU: String(ROOM),
      CAPACITY_MEMORY_MIB: String(ROOM_PER_HOST * SANDBOX_MIB),
      STARTS_AT_ONCE: String(STARTS_AT_ONCE),
    },
  });
  sql = postgres(fleet.fleet.state.databaseUrl, { max: 2, onnotice: () => {} });
});
afterAll(async () => {
  await sql.end();
  await fleet[Symbol.asyncDispose]();
});

const create = () =>
  fleet.call("POST", "/v1/sandboxes", {
    body: { template_name: "code-interpreter" },
    headers: { prefer: "wait=20" },
  });

async function idsIn(state: string): Promise<string[]> {
  const rows = await sql`SELECT id FROM sandboxes WHERE state = ${state}`;
  return rows.map(({ id }) => String(id));
}

interface Line {
  msg: string;
  sandboxId: string;
}

/** Log lines of a host about its starts, in order. */
async function startsOf(hostId: string): Promise<Line[]> {
  const text = await readFile(join(fleet.fleet.dir, "logs", `${hostId}.log`), "utf8");
  return text
    .split("\n")
    .filter((line) => line.includes('"start began"') || line.includes('"start ended"'))
    .map((line) => JSON.parse(line) as Line);
}

/** Largest number of starts that were under way at once. */
function mostAtOnce(lines: Line[]): number {
  let [now, most] = [0, 0];
  for (const { msg } of lines) {
    now += msg === "start began" ? 1 : -1;
    most = Math.max(most, now);
  }
  expect(now, "each start has ended").toBe(0);
  return most;
}

test("all that fit run, each started once and no more at once than a host says; the others are told, or get what becomes free", async () => {
  const asked = Array.from({ length: CROWD }, () => create());
  const running = await until("the fleet is full", async () => {
    const ids = await idsIn("running");
    return ids.length === ROOM ? ids : undefined;
  });
  const hosts = await fleet.hosts();
  expect(hosts).toMatchObject(
    HOSTS.map((id) => ({ id, used: { memory_mb: ROOM_PER_HOST * SANDBOX_MIB } })),
  );
  expect(hosts.map(({ load }) => load?.["startsAtOnce"])).toEqual(HOSTS.map(() => STARTS_AT_ONCE));

  // The delete frees room for one of the waiting creates.
  const [left = ""] = running;
  await fleet.client.sandboxes.delete(left);
  const answers = await Promise.all(asked);
  const made = answers.filter(({ status }) => status === 201);
  const refused = answers.filter(({ status }) => status !== 201);
  expect(made).toHaveLength(ROOM + 1);
  for (const { status, body: why } of refused)
    expect({ status, why }).toMatchObject({ status: 429, why: { code: "RESOURCE_LIMIT_ERROR" } });

  const ids = made.map(({ body: sandbox }) => String(sandbox["id"]));
  const kept = ids.filter((id) => id !== left).toSorted();
  expect((await idsIn("running")).toSorted(), "nothing is lost, and nothing beside").toEqual(kept);
  const open = await sql`SELECT id FROM operations WHERE ended_at IS NULL`;
  expect(open, "nothing is still under way").toHaveLength(0);
  const reserved = await sql`SELECT memory_mib_used FROM hosts ORDER BY id`;
  expect(reserved.map((row) => Number(row["memory_mib_used"]))).toEqual(
    HOSTS.map(() => ROOM_PER_HOST * SANDBOX_MIB),
  );

  const lines = await Promise.all(HOSTS.map(startsOf));
  for (const [at, hostId] of HOSTS.entries())
    expect(mostAtOnce(lines[at] ?? []), hostId).toBe(STARTS_AT_ONCE);
  const began = lines.flat().filter(({ msg }) => msg === "start began");
  expect(began.map(({ sandboxId }) => sandboxId).toSorted()).toEqual(ids.toSorted());
  const runs: string[] = [];
  for await (const path of glob("hosts/*/vm/*/r[0-9]*", { cwd: fleet.fleet.dir })) runs.push(path);
  expect(runs, "of each VM that is there one run").toHaveLength(kept.length);
});
