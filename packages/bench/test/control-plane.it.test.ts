/** The benchmarks themselves, on a real control plane, as short as possible. */
import type postgres from "postgres";
import { expect, test, vi } from "vitest";
import { measureControlPlane, openControlPlane } from "../src/control-plane.ts";
import { create, idIn } from "../src/load/sandboxes.ts";
import { plotOf } from "../src/report/plot.ts";
import { fill } from "../src/scale/fill.ts";
import { filledId } from "../src/scale/filled.ts";
import { measureScale } from "../src/scale.ts";
import { place } from "./support/place.ts";

vi.setConfig({ testTimeout: 300_000 });

const SHORT = { seconds: 2, warmSeconds: 1, countSeconds: 1, warmUpSeconds: 0, clients: [2] };
const SHAPE = { hosts: 2, gateways: 1, schedulers: 1, edge: "loopback", isDurable: false } as const;

test("bench hosts carry out transitions of a whole control plane, and every number is there", async () => {
  await using at = await place();
  const { signal } = new AbortController();
  const steps = ["idle", "closed", "paced", "async", "create-delete"] as const;
  const said: string[] = [];
  const say = (line: string) => void said.push(line);
  const options = { ...at, ...SHORT, shape: SHAPE, steps, accepts: 4, signal, say };
  const result = await measureControlPlane(options);
  expect(result).toMatchObject({ format: 1, benchmark: "control-plane", settings: { hosts: 2 } });
  expect(result.steps.map(({ name }) => name)).toEqual([
    "idle",
    "closed-2",
    "paced",
    "async-32",
    "create-delete-1",
    "create-delete-32",
  ]);
  for (const step of result.steps) {
    expect(step.failed, step.name).toEqual({});
    expect(Object.keys(step.cpuPercent).toSorted()).toEqual([
      "bench hosts",
      "gateway",
      "load",
      "machine idle",
      "nats",
      "others",
      "postgres",
      "schedulers",
    ]);
    expect(step.memoryMib["gateway"]).toBeGreaterThan(10);
    if (step.clients > 0) {
      expect(step.count, step.name).toBeGreaterThan(0);
      expect(step.cpuMsPerUnit?.["postgres"], step.name).toBeGreaterThan(0);
    }
  }
  const closed = result.steps.find(({ name }) => name === "closed-2");
  expect(Object.keys(closed?.latencies ?? {})).toEqual(["all", "pause", "resume"]);
  // Every transition has an accept, a begin, a commit request and an observation.
  expect(closed?.countersPerUnit?.natsStored).toBeGreaterThan(2);
  expect(closed?.countersPerUnit?.commits).toBeGreaterThan(0.1);
  expect(closed?.statementsPerUnit?.["torpor-gateway"]).toBeGreaterThan(0);
  expect(closed?.statementsPerUnit?.["torpor-scheduler"]).toBeGreaterThan(0);
  expect(plotOf(JSON.parse(JSON.stringify(result)) as typeof result)).not.toMatch(/NaN|undefined/);
  expect(said).toContainEqual(expect.stringMatching(/^\[2\/6\] closed-2; about \d+ s left$/));
});

test("hosts and database agree about what it was filled with", async () => {
  await using at = await place();
  const { signal } = new AbortController();
  const shape = { ...SHAPE, edge: "domain" } as const;
  const sizes = {
    shape,
    sandboxesPerHost: 150,
    quietSeconds: 3,
    steps: ["idle", "closed"],
  } as const;
  const result = await measureScale({ ...at, ...SHORT, ...sizes, signal, say: () => {} });
  expect(result.settings).toMatchObject({ sandboxesPerHost: 150 });
  const [idle, closed] = result.steps;
  expect(idle?.extra).toMatchObject({ findings: 0 });
  expect(idle?.extra?.["gatewayRestartSeconds"]).toBeGreaterThan(0);
  expect(closed?.failed).toEqual({});
  expect(closed?.count).toBeGreaterThan(0);
});

/** All rows of a sandbox, without the values that differ between two equal ones. */
async function rowsOf(sql: postgres.Sql, id: string) {
  const read = async (table: string, column: string, order: string) => {
    const rows = await sql.unsafe(
      `SELECT to_jsonb(one) AS row FROM ${table} one WHERE ${column} = $1 ORDER BY ${order}`,
      [id],
    );
    return rows.map(({ row }) => comparable(row as Record<string, unknown>));
  };
  return {
    sandboxes: await read("sandboxes", "id", "id"),
    operations: await read("operations", "sandbox_id", "op_seq"),
    incarnations: await read("incarnations", "sandbox_id", "epoch"),
    snapshots: await read("snapshots", "sandbox_id", "generation"),
    events: await read("sandbox_events", "sandbox_id", "seq"),
  };
}

const OF_ITS_OWN =
  /^(id|sandbox_id|operation_id|(origin_)?host_id|edge_address|manifest_sha256|trace_id|.*_at)$/;

/** Replaces the values that are unique to a sandbox by whether they exist. */
function comparable(row: Record<string, unknown>): Record<string, unknown> {
  const entries = Object.entries(row).map(([name, value]) => [
    name,
    OF_ITS_OWN.test(name) ? value !== null : value,
  ]);
  return Object.fromEntries(entries) as Record<string, unknown>;
}

test("a sandbox that was filled in has the rows of one that was paused, and is resumed like it", async () => {
  await using at = await place();
  const { signal } = new AbortController();
  await using plane = await openControlPlane(at, { ...SHAPE, edge: "domain" }, signal);
  const { sql, call } = plane;
  await plane.startHosts(0, signal);
  const real = idIn(await create(call));
  expect(await call("POST", `/v1/sandboxes/${real}/pause`)).toMatchObject({ status: 200 });
  const expected = await rowsOf(sql, real);
  expect(await call("DELETE", `/v1/sandboxes/${real}`)).toMatchObject({ status: 200 });
  await plane.stopHosts();
  await fill(sql, { hosts: SHAPE.hosts, sandboxes: 10, signal, onProgress: () => {} });
  expect(await rowsOf(sql, filledId(9))).toEqual(expected);
  await plane.startHosts(10, signal);
  const resumed = await call("POST", `/v1/sandboxes/${filledId(9)}/resume`);
  expect(resumed, resumed.text).toMatchObject({ status: 200 });
});
