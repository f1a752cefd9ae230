/** Policies: what is set is kept, idle sandboxes are paused and busy ones are not, traffic wakes paused ones. Simulated hosts. */
import { startTestFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet({ hosts: 1 });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

type Body = Record<string, unknown>;
const pathOf = (sandbox: Body) => `/v1/sandboxes/${String(sandbox["id"])}`;
const create = async (body: Body = {}): Promise<Body> => {
  const answer = await fleet.call("POST", "/v1/sandboxes", { body: { template_name: "code-interpreter", ...body } });
  expect(answer.status, JSON.stringify(answer.body)).toBe(201);
  return answer.body;
};
const get = async (sandbox: Body) => (await fleet.call("GET", pathOf(sandbox))).body;
const post = (sandbox: Body, verb: string) => fleet.call("POST", `${pathOf(sandbox)}/${verb}`);
const patch = (sandbox: Body, body: Body) => fleet.call("PATCH", pathOf(sandbox), { body });
const run = async (sandbox: Body, code: string) => (await fleet.guest(sandbox, "/execute", { language: "python", code })).body;
const statusIs = (sandbox: Body, status: string) =>
  until(`status ${status}`, async () => (await get(sandbox))["status"] === status, 30_000);
interface Event {
  fact: string;
  cause?: { code: string };
  operation_id?: string;
}
const events = async (sandbox: Body) => (await fleet.call("GET", `${pathOf(sandbox)}/events`)).body["data"] as Event[];

describe("settings", () => {
  test("S32: policies and metadata are off by default, settable, changeable, and kept over pause, resume, stop and start", async () => {
    expect(await create()).toMatchObject({ auto_pause: null, auto_resume: false, preview_access: "public" });
    const sandbox = await create({
      auto_pause: { idle_seconds: 600 },
      auto_resume: true,
      preview_access: "token",
      metadata: { a: "1", b: "2" },
    });
    const policies = { auto_pause: { idle_seconds: 600 }, auto_resume: true, preview_access: "token", metadata: { a: "1", b: "2" } };
    expect(sandbox).toMatchObject(policies);
    for (const verb of ["pause", "resume", "stop", "start"]) {
      expect((await post(sandbox, verb)).status).toBe(200);
      expect(await get(sandbox)).toMatchObject(policies);
    }
    const patched = await patch(sandbox, { auto_pause: null, metadata: { b: null, c: "3" } });
    expect(patched).toMatchObject({ status: 200, body: { auto_pause: null, auto_resume: true, preview_access: "token" } });
    expect(patched.body["metadata"]).toEqual({ a: "1", c: "3" });
    await post(sandbox, "pause");
    expect((await patch(sandbox, { auto_resume: false, preview_access: "public" })).body).toMatchObject({
      status: "paused",
      auto_resume: false,
    });
    expect((await patch({ id: "1795490791hbb922t4" }, { auto_resume: true })).status).toBe(404);
  });
});

describe("auto-pause", () => {
  test("S23: an idle sandbox is paused by the system, and not again right after it was resumed", async () => {
    const sandbox = await create({ auto_pause: { idle_seconds: 3 } });
    await run(sandbox, "x = 42");
    await statusIs(sandbox, "paused");
    const pausedBy = (await events(sandbox)).findLast(({ fact }) => fact === "paused")?.operation_id ?? "";
    expect((await fleet.call("GET", `/v1/operations/${pausedBy}`)).body).toMatchObject({
      requested_by: "system:auto-pause",
      kind: "pause",
    });
    const resumedAtMs = Date.now();
    await post(sandbox, "resume");
    expect(await run(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
    await statusIs(sandbox, "paused");
    expect(Date.now() - resumedAtMs).toBeGreaterThanOrEqual(3_000);
  });

  test("S54, S25: work inside the guest stops the pause before anything is frozen; the sandbox runs on, and a pause that its user asks for is carried out all the same", async () => {
    const sandbox = await create({ auto_pause: { idle_seconds: 1 } });
    await run(sandbox, "active_executions = 1");
    const refused = await until(
      "a pause is given up",
      async () => (await events(sandbox)).find(({ cause }) => cause?.code === "SANDBOX_ACTIVE"),
      30_000,
    );
    const operation = await fleet.call("GET", `/v1/operations/${refused.operation_id}`);
    expect(operation.body).toMatchObject({ status: "cancelled", error: { code: "SANDBOX_ACTIVE" } });
    expect(operation.body["timings_ms"]).not.toHaveProperty("freeze_and_sync");
    expect(await get(sandbox)).toMatchObject({ status: "running" });
    // Joined or not: what the user asked for is unconditional.
    expect(await post(sandbox, "pause")).toMatchObject({ status: 200, body: { status: "paused" } });
    expect((await post(sandbox, "resume")).status).toBe(200);
    await run(sandbox, "active_executions = 0");
    await statusIs(sandbox, "paused");
  });
});
