/**
 * No capacity: a request waits as long as it may, then gets an error that names the missing
 * resource and the number of hosts.
 */
import { startTestFleet, type TestFleet } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet({ hostEnv: { CAPACITY_MEMORY_MIB: "128" } });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const create = (prefer: string) =>
  fleet.call("POST", "/v1/sandboxes", {
    body: { template_name: "code-interpreter" },
    headers: { prefer },
  });
const remove = (id: unknown) => fleet.call("DELETE", `/v1/sandboxes/${String(id)}`);

test("S50, E1: a full fleet is a 429 with the reasons, never a 503, and nothing is overcommitted", async () => {
  const made = await Promise.all(Array.from({ length: 4 }, () => create("wait=30")));
  expect(made.map(({ status }) => status)).toEqual([201, 201, 201, 201]);
  const hosts = await fleet.call("GET", "/v1/hosts");
  for (const host of hosts.body["data"] as {
    used: { memory_mb: number };
    capacity: { memory_mb: number };
  }[])
    expect(host.used.memory_mb).toBe(host.capacity.memory_mb);

  const refused = await create("wait=8");
  expect(refused.status).toBe(429);
  expect(refused.body).toMatchObject({ code: "RESOURCE_LIMIT_ERROR", details: { hosts: 2 } });
  expect(String(refused.body["message"])).toMatch(/memory/);

  // A waiting create gets the capacity that a delete frees.
  const waiting = create("wait=30");
  await remove(made[0]?.body["id"]);
  const served = await waiting;
  expect(served.status, JSON.stringify(served.body)).toBe(201);

  // A paused sandbox holds no memory.
  await fleet.call("POST", `/v1/sandboxes/${String(made[1]?.body["id"])}/pause`);
  const another = await create("wait=30");
  expect(another.status).toBe(201);
  const resume = await fleet.call("POST", `/v1/sandboxes/${String(made[1]?.body["id"])}/resume`, {
    headers: { prefer: "wait=8" },
  });
  expect(resume).toMatchObject({ status: 429, body: { code: "RESOURCE_LIMIT_ERROR" } });
  expect(
    (await fleet.call("GET", `/v1/sandboxes/${String(made[1]?.body["id"])}`)).body,
  ).toMatchObject({ status: "paused" });
});

test("a create that was refused for now is carried out when it is repeated with its key, once", async () => {
  const { sandboxes } = fleet.client;
  const body = { template_name: "code-interpreter" };
  const crowded = { idempotencyKey: "crowded" };
  const running = await Array.fromAsync(sandboxes.list({ status: "running" }));
  expect(running).toHaveLength(4);
  for (let time = 0; time < 2; time += 1)
    await expect(sandboxes.create(body, { ...crowded, waitSeconds: 3 })).rejects.toMatchObject({
      status: 429,
      code: "RESOURCE_LIMIT_ERROR",
    });
  await sandboxes.delete(String(running[0]?.id));
  const made = await sandboxes.create(body, crowded);
  expect(made.status).toBe("running");
  expect((await sandboxes.create(body, crowded)).id).toBe(made.id);
});
