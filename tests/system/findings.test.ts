/**
 * Hosts and database disagree about a sandbox: nothing is destroyed on a guess, and the
 * disagreement is reported. Simulated hosts.
 */
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { listVmProcesses } from "@torpor/fleet";
import { isAlive } from "@torpor/service";
import {
  runCode,
  type SandboxResource,
  startTestFleet,
  type TestFleet,
  until,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
let sql: postgres.Sql;
beforeAll(async () => {
  fleet = await startTestFleet({ hosts: 1 });
  sql = postgres(fleet.fleet.state.databaseUrl, { max: 1, onnotice: () => {} });
});
afterAll(async () => {
  await sql.end();
  await fleet[Symbol.asyncDispose]();
});

const LIMIT_MS = 60_000;
const findings = async () => (await fleet.client.hosts.get("host-1")).findings;
type Finding = Awaited<ReturnType<typeof findings>>[number];
const paged = async () => (await fleet.call("GET", "/v1/hosts/host-1/findings?limit=1")).body;
const finding = async (what: string, is: (finding: Finding) => boolean) =>
  await until(what, async () => (await findings()).find(is), LIMIT_MS);
const restartAgent = async () => {
  await fleet.fleet.kill("host-1");
  await fleet.fleet.startComponent("host-1");
};

async function create(): Promise<{ sandbox: SandboxResource; id: string }> {
  const sandbox = await fleet.createSandbox();
  await runCode(sandbox, "x = 42");
  return { sandbox, id: sandbox.id };
}

const TABLES = ["sandboxes", "operations", "incarnations", "snapshots", "sandbox_events"] as const;
const keyOf = (table: string) => sql(table === "sandboxes" ? "id" : "sandbox_id");
const used = async (tx: postgres.TransactionSql, id: string, sign: 1 | -1) =>
  await tx`UPDATE hosts SET vcpu_used = vcpu_used + ${sign} * vcpu, memory_mib_used = memory_mib_used + ${sign} * memory_mib,
    disk_mib_used = disk_mib_used + ${sign} * disk_mib FROM sandboxes WHERE sandboxes.id = ${id} AND hosts.id = host_id`;

/** The inventory of each host that the database has reconciled last. */
const inventories = async () =>
  await sql<{ id: string; shown: string | null }[]>`
  SELECT id, reconciled_inventory AS shown FROM hosts`;

/**
 * Deletes the sandbox from the database, as if the database were restored from a time before the
 * create. The reconciled inventories go back to that time, too.
 */
async function forget(id: string, then: Awaited<ReturnType<typeof inventories>>): Promise<void> {
  await sql.begin(async (tx) => {
    for (const host of then)
      await tx`UPDATE hosts SET reconciled_inventory = ${host.shown} WHERE id = ${host.id}`;
    await used(tx, id, -1);
    for (const table of TABLES) {
      await tx`CREATE TABLE IF NOT EXISTS ${sql(`kept_${table}`)} AS SELECT * FROM ${sql(table)} WITH NO DATA`;
      await tx`INSERT INTO ${sql(`kept_${table}`)} SELECT * FROM ${sql(table)} WHERE ${keyOf(table)} = ${id}`;
    }
    for (const table of TABLES.toReversed())
      await tx`DELETE FROM ${sql(table)} WHERE ${keyOf(table)} = ${id}`;
  });
}

async function remember(id: string): Promise<void> {
  await sql.begin(async (tx) => {
    for (const table of TABLES)
      await tx`INSERT INTO ${sql(table)} SELECT * FROM ${sql(`kept_${table}`)} WHERE ${keyOf(table)} = ${id}`;
    await used(tx, id, 1);
  });
}

describe("S30: a VM that the database does not know", () => {
  test("is frozen and reported, also over a crash of its agent, and runs on with its memory when it is known again", async () => {
    const shown = await inventories();
    const { sandbox, id } = await create();
    const vmm = (await listVmProcesses(fleet.fleet.dir)).find(({ sandboxId }) => sandboxId === id);
    if (vmm === undefined) throw new Error("the sandbox has no VMM process");
    await forget(id, shown);
    const isFrozen = ({ sandbox_id, quarantined }: Finding) => sandbox_id === id && quarantined;
    expect(await finding("it is quarantined", isFrozen)).toMatchObject({
      kind: "unknown",
      message: expect.stringMatching(/frozen/),
    });
    expect(await paged()).toMatchObject({
      data: [{ sandbox_id: id, kind: "unknown" }],
      has_more: false,
      next_cursor: null,
    });
    await restartAgent();
    const [before] = await findings();
    await until(
      "it was seen again since",
      async () =>
        (await findings()).some(
          (one) => isFrozen(one) && one.last_seen_at !== before?.last_seen_at,
        ),
      LIMIT_MS,
    );
    expect(isAlive(vmm), "its memory is kept").toBe(true);

    await remember(id);
    await until("it is nobody's finding", async () => (await findings()).length === 0, LIMIT_MS);
    expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
    expect(isAlive(vmm)).toBe(true);
    await fleet.client.sandboxes.delete(id);
  });

  test("is discarded when an operator says so, and not before", async () => {
    const shown = await inventories();
    const { id } = await create();
    await forget(id, shown);
    await finding("it is found", ({ sandbox_id }) => sandbox_id === id);
    await fleet.client.hosts.discard("host-1", id);
    await until(
      "it is gone",
      async () =>
        (await listVmProcesses(fleet.fleet.dir)).every(({ sandboxId }) => sandboxId !== id),
      LIMIT_MS,
    );
    await until("so is the finding", async () => (await findings()).length === 0, LIMIT_MS);
    await expect(fleet.client.hosts.discard("host-1", id)).rejects.toMatchObject({ status: 404 });
  });
});

test("a sandbox that its host does not have any more says so, keeps its state, and is well again when it is back", async () => {
  const { sandbox, id } = await create();
  await fleet.client.sandboxes.pause(id);
  const dir = join(fleet.fleet.dir, "hosts/host-1/vm", id);
  const elsewhere = join(fleet.fleet.dir, `taken-${id}`);
  await fleet.fleet.kill("host-1");
  await rename(dir, elsewhere);
  await fleet.fleet.startComponent("host-1");
  await finding("it is missing", ({ sandbox_id, kind }) => sandbox_id === id && kind === "missing");
  const missing = await fleet.untilSandbox(
    "the sandbox says so",
    id,
    ({ condition }) => condition !== undefined,
  );
  expect(missing).toMatchObject({
    status: "paused",
    condition: "host_lost_sandbox",
    condition_reason: expect.stringMatching(/host-1/),
  });
  await expect(fleet.client.hosts.discard("host-1", id)).rejects.toMatchObject({ status: 409 });

  await fleet.fleet.kill("host-1");
  await rename(elsewhere, dir);
  await fleet.fleet.startComponent("host-1");
  await fleet.untilSandbox(
    "it is well again",
    id,
    ({ condition }) => condition === undefined,
    LIMIT_MS,
  );
  expect(await fleet.client.sandboxes.resume(id)).toMatchObject({ status: "running" });
  expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
  const facts = (await fleet.events(id)).map(({ fact }) => fact);
  expect(facts.filter((fact) => fact === "missing_on_host" || fact === "found_on_host")).toEqual([
    "missing_on_host",
    "found_on_host",
  ]);
});
