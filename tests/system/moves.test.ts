/**
 * Sandboxes that continue on another host, fetched straight from a host that is full or does not
 * answer. There is no store: only the old host has a sandbox until the sandbox has arrived.
 */
import { startTestFleet, type TestFleet, until } from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

type Body = Record<string, unknown>;
const LIMIT_MS = 60_000;
const [HOME, AWAY] = ["host-1", "host-2"];

let fleet: TestFleet;
let sql: postgres.Sql;
beforeAll(async () => {
  fleet = await startTestFleet({
    hostEnv: { SNAPSHOT_STORE_DIR: "/dev/null/store" },
    // Room for two sandboxes, and for many.
    hostEnvs: { [HOME]: { CAPACITY_MEMORY_MIB: "128" }, [AWAY]: { CAPACITY_MEMORY_MIB: "1024" } },
  });
  sql = postgres(fleet.fleet.state.databaseUrl, { max: 1 });
});
afterAll(async () => {
  await sql.end({ timeout: 5 });
  await fleet[Symbol.asyncDispose]();
});

const post = async (path: string, headers: Record<string, string> = {}) =>
  await fleet.call("POST", path, { headers });
const of = (sandbox: Body) => `/v1/sandboxes/${String(sandbox["id"])}`;
const view = async (sandbox: Body) => (await fleet.call("GET", of(sandbox))).body;
const remove = async (sandbox: Body) => await fleet.call("DELETE", of(sandbox));
const host = async (hostId: string, verb: string) => await post(`/v1/hosts/${hostId}/${verb}`);

async function createAtHome(): Promise<Body> {
  const { status, body } = await fleet.call("POST", "/v1/sandboxes", {
    body: { template_name: "code-interpreter" },
  });
  expect(status, JSON.stringify(body)).toBe(201);
  expect((await view(body))["node_id"]).toBe(HOME);
  return body;
}

let sandbox: Body;
/** The sandbox is paused at home, with a value in its memory and a file on its disk. */
beforeEach(async () => {
  await host(AWAY, "cordon");
  sandbox = await createAtHome();
  await fleet.guest(sandbox, "/execute", { language: "python", code: "x = 42" });
  await fleet.guest(sandbox, "/files/write", { path: "/workspace/note", content: "kept" });
  await post(`${of(sandbox)}/pause`);
});

async function hasArrived(): Promise<void> {
  expect(await view(sandbox)).toMatchObject({ status: "running", node_id: AWAY });
  expect(
    (await fleet.guest(sandbox, "/execute", { language: "python", code: "print(x)" })).body[
      "stdout"
    ],
  ).toBe("42\n");
  expect((await fleet.guest(sandbox, "/files/read?path=/workspace/note")).body["content"]).toBe(
    "kept",
  );
  const { healthUrl = "" } = fleet.fleet.component(HOME);
  const isForgotten = async () => {
    const { vms } = (await (await fetch(healthUrl)).json()) as { vms: Body[] };
    return vms.every(({ sandboxId }) => sandboxId !== sandbox["id"]);
  };
  await until("its old host has forgotten it", isForgotten, LIMIT_MS);
}

/**
 * Checks that the used disk of each host is the sum over the sandboxes that are there or may go
 * back there.
 */
async function sumsAreRight(): Promise<void> {
  const sums = await sql`
    SELECT hosts.id, disk_mib_used::int AS used, coalesce(sum(disk_mib), 0)::int AS taken FROM hosts
    LEFT JOIN sandboxes ON hosts.id IN (host_id, origin_host_id) AND sandboxes.state <> 'deleted' GROUP BY hosts.id`;
  expect(sums).toHaveLength(2);
  for (const { id, used, taken } of sums) expect(used, `disk used on ${String(id)}`).toBe(taken);
}

test("one whose host is full is resumed on another, straight from the full one", async () => {
  const others = [await createAtHome(), await createAtHome()];
  await host(AWAY, "uncordon");
  const resumed = await post(`${of(sandbox)}/resume`);
  expect(resumed, JSON.stringify(resumed.body)).toMatchObject({
    status: 200,
    body: { status: "running" },
  });
  await hasArrived();
  await sumsAreRight();
  for (const one of [sandbox, ...others]) await remove(one);
});

test("a fetch from a host that hangs, for an agent that is killed: it is paused where it was, and the next resume brings it", async () => {
  await host(AWAY, "uncordon");
  await host(HOME, "cordon");
  fleet.fleet.signal(HOME, "SIGSTOP");
  try {
    const refused = post(`${of(sandbox)}/resume`, { prefer: "wait=6" });
    await until(
      "it is on its way",
      async () => (await view(sandbox))["node_id"] === AWAY,
      LIMIT_MS,
    );
    expect(await host(HOME, "retire"), "it has the only copy").toMatchObject({ status: 409 });
    await sumsAreRight();
    await fleet.fleet.kill(AWAY);
    await fleet.fleet.startComponent(AWAY);
    expect((await refused).status).toBeGreaterThanOrEqual(400);
    const isBack = async () => {
      const { status, node_id: at } = await view(sandbox);
      return status === "paused" && at === HOME;
    };
    await until("it is back", isBack, LIMIT_MS);
    await sumsAreRight();
  } finally {
    fleet.fleet.signal(HOME, "SIGCONT");
  }
  // Either host may have been lost by now; without the other host the sandbox would resume at home.
  const areThere = async () =>
    (await sql`SELECT state FROM hosts ORDER BY id`).map(({ state }) => String(state)).join(" ") ===
    "cordoned ready";
  await until("both hosts are there", areThere, LIMIT_MS);
  const resumed = await until(
    "the next resume",
    async () => {
      const answer = await post(`${of(sandbox)}/resume`);
      return answer.status === 200 ? answer : undefined;
    },
    2 * LIMIT_MS,
  );
  expect(resumed.body).toMatchObject({ status: "running" });
  await hasArrived();
  await sumsAreRight();
  await host(HOME, "uncordon");
  await remove(sandbox);
});
