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

const create = (waitSeconds: number) => fleet.createSandbox({}, { waitSeconds });

test("S50, E1: a full fleet is a 429 with the reasons, never a 503, and nothing is overcommitted", async () => {
  const { sandboxes } = fleet.client;
  const made = await Promise.all(Array.from({ length: 4 }, () => create(30)));
  for (const host of await fleet.hosts()) expect(host.used.memory_mb).toBe(host.capacity.memory_mb);

  await expect(create(8)).rejects.toMatchObject({
    status: 429,
    code: "RESOURCE_LIMIT_ERROR",
    message: expect.stringMatching(/memory/),
    details: { hosts: 2 },
  });

  // A waiting create gets the capacity that a delete frees.
  const waiting = create(30);
  await sandboxes.delete(made[0]?.id ?? "");
  await waiting;

  // A paused sandbox holds no memory.
  const paused = made[1]?.id ?? "";
  await sandboxes.pause(paused);
  await create(30);
  await expect(sandboxes.resume(paused, { waitSeconds: 8 })).rejects.toMatchObject({
    status: 429,
    code: "RESOURCE_LIMIT_ERROR",
  });
  expect(await sandboxes.get(paused)).toMatchObject({ status: "paused" });
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
