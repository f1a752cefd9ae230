/**
 * Policies: a policy that is set is kept, idle sandboxes are paused and busy ones are not, and
 * traffic resumes paused ones. Simulated hosts.
 */
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { startTestFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

/** Sandboxes that fit on the one host at once. */
const PLACES = 4;
let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet({
    hosts: 1,
    hostEnv: { CAPACITY_MEMORY_MIB: String(64 * PLACES) },
    gatewayEnv: { AUTO_RESUME_WAIT_MS: "10000" },
  });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

afterEach(async () => {
  const left = (await fleet.call("GET", "/v1/sandboxes")).body["data"] as Body[];
  await Promise.all(left.map((sandbox) => fleet.call("DELETE", pathOf(sandbox))));
});

type Body = Record<string, unknown>;
const pathOf = (sandbox: Body) => `/v1/sandboxes/${String(sandbox["id"])}`;
const create = async (body: Body = {}): Promise<Body> => {
  const answer = await fleet.call("POST", "/v1/sandboxes", {
    body: { template_name: "code-interpreter", ...body },
  });
  expect(answer.status, JSON.stringify(answer.body)).toBe(201);
  return answer.body;
};
const get = async (sandbox: Body) => (await fleet.call("GET", pathOf(sandbox))).body;
const post = (sandbox: Body, verb: string) => fleet.call("POST", `${pathOf(sandbox)}/${verb}`);
const patch = (sandbox: Body, body: Body) => fleet.call("PATCH", pathOf(sandbox), { body });
const execute = (sandbox: Body, code: string) =>
  fleet.guest(sandbox, "/execute", { language: "python", code });
const run = async (sandbox: Body, code: string) => {
  const answer = await execute(sandbox, code);
  expect(answer.status, JSON.stringify(answer.body)).toBe(200);
  return answer.body;
};
/** Runs code in a sandbox that the system tries to pause at the same time. */
const runBetweenPauses = (sandbox: Body, code: string) =>
  until(`${code} is run`, async () => (await execute(sandbox, code)).status === 200, 60_000);
const statusIs = (sandbox: Body, status: string) =>
  until(`status ${status}`, async () => (await get(sandbox))["status"] === status, 30_000);
interface Event {
  fact: string;
  cause?: { code: string };
  operation_id?: string;
}
const events = async (sandbox: Body) =>
  (await fleet.call("GET", `${pathOf(sandbox)}/events`)).body["data"] as Event[];

describe("settings", () => {
  test("S9, S32: policies and metadata are off by default, settable, changeable, and kept over pause, resume, stop and start", async () => {
    expect(await create()).toMatchObject({
      auto_pause: null,
      auto_resume: false,
      preview_access: "public",
      preview_host: "original",
      on_host_loss: "wait",
    });
    const sandbox = await create({
      auto_pause: { idle_seconds: 600 },
      auto_resume: true,
      preview_access: "token",
      preview_host: "localhost",
      on_host_loss: "restore",
      metadata: { a: "1", b: "2" },
    });
    const policies = {
      auto_pause: { idle_seconds: 600 },
      auto_resume: true,
      preview_access: "token",
      preview_host: "localhost",
      on_host_loss: "restore",
      metadata: { a: "1", b: "2" },
    };
    expect(sandbox).toMatchObject(policies);
    for (const verb of ["pause", "resume", "stop", "start"]) {
      expect((await post(sandbox, verb)).status).toBe(200);
      expect(await get(sandbox)).toMatchObject(policies);
    }
    const patched = await patch(sandbox, { auto_pause: null, metadata: { b: null, c: "3" } });
    expect(patched).toMatchObject({
      status: 200,
      body: { auto_pause: null, auto_resume: true, preview_access: "token" },
    });
    expect(patched.body["metadata"]).toEqual({ a: "1", c: "3" });
    await post(sandbox, "pause");
    expect(
      (await patch(sandbox, { auto_resume: false, preview_access: "public", on_host_loss: "wait" }))
        .body,
    ).toMatchObject({
      status: "paused",
      auto_resume: false,
      on_host_loss: "wait",
    });
    expect((await patch({ id: "1795490791hbb922t4" }, { auto_resume: true })).status).toBe(404);
  });
});

describe("auto-pause", () => {
  test("S23: an idle sandbox is paused by the system, and not again right after it was resumed", async () => {
    const sandbox = await create();
    await run(sandbox, "x = 42");
    await patch(sandbox, { auto_pause: { idle_seconds: 4 } });
    await statusIs(sandbox, "paused");
    const pausedBy =
      (await events(sandbox)).findLast(({ fact }) => fact === "paused")?.operation_id ?? "";
    expect((await fleet.call("GET", `/v1/operations/${pausedBy}`)).body).toMatchObject({
      requested_by: "system:auto-pause",
      kind: "pause",
    });
    const resumedAtMs = Date.now();
    await post(sandbox, "resume");
    expect(await run(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
    await statusIs(sandbox, "paused");
    expect(Date.now() - resumedAtMs).toBeGreaterThanOrEqual(4_000);
    // No pause was even tried: the resume had reset the idle clock.
    expect((await events(sandbox)).map(({ cause }) => cause?.code)).not.toContain("SANDBOX_ACTIVE");
  });

  test("S54, S25: work inside the guest stops the pause before anything is frozen; the sandbox runs on, and a pause that its user asks for is carried out all the same", async () => {
    const sandbox = await create();
    await run(sandbox, "active_executions = 1");
    await patch(sandbox, { auto_pause: { idle_seconds: 1 } });
    const refused = await until(
      "a pause is given up",
      async () => (await events(sandbox)).find(({ cause }) => cause?.code === "SANDBOX_ACTIVE"),
      30_000,
    );
    const operation = await fleet.call("GET", `/v1/operations/${refused.operation_id}`);
    expect(operation.body).toMatchObject({
      status: "cancelled",
      error: { code: "SANDBOX_ACTIVE" },
    });
    expect(operation.body["timings_ms"]).not.toHaveProperty("freeze_and_sync");
    expect(await get(sandbox)).toMatchObject({ status: "running" });
    // The user's pause joins the next conditional pause, while the host still finds out that the
    // condition does not hold.
    await runBetweenPauses(sandbox, "activity_delay_ms = 1000");
    await until(
      "another is under way",
      async () => (await get(sandbox))["operation"] !== undefined,
    );
    expect(await post(sandbox, "pause")).toMatchObject({ status: 200, body: { status: "paused" } });
    expect((await post(sandbox, "resume")).status).toBe(200);
    await runBetweenPauses(sandbox, "active_executions = 0");
    await statusIs(sandbox, "paused");
  });
});

test("a page that comes back right after each pause: the pauses come later and later, and the sandbox's events say why", async () => {
  const sandbox = await create({ auto_pause: { idle_seconds: 2 }, auto_resume: true });
  for (let at = 0; at < 3; at += 1) {
    await statusIs(sandbox, "paused");
    await run(sandbox, "x = 1");
  }
  const told = await until(
    "the next pause is delayed",
    async () => (await events(sandbox)).find(({ fact }) => fact === "auto_pause_delayed"),
    30_000,
  );
  expect(told.cause).toMatchObject({
    code: "RESUMED_TOO_SOON",
    message: expect.stringMatching(/of [23] pauses of the last hour, so it is paused after [48] s/),
  });
  await statusIs(sandbox, "paused");
});

describe("auto-resume", () => {
  const resumes = async (sandbox: Body) => {
    const ids = new Set(
      (await events(sandbox))
        .filter(({ fact }) => fact === "resume_assigned")
        .map((event) => event.operation_id),
    );
    return await Promise.all(
      [...ids].map(async (id) => (await fleet.call("GET", `/v1/operations/${String(id)}`)).body),
    );
  };

  test("S31, WK1: requests to a paused sandbox wait while one operation resumes it, and go on as if nothing had been", async () => {
    const sandbox = await create({ auto_resume: true });
    await run(sandbox, "x = 42");
    await post(sandbox, "pause");
    const answers = await Promise.all(Array.from({ length: 12 }, () => run(sandbox, "print(x)")));
    expect(answers.map((answer) => answer["stdout"])).toEqual(
      Array.from({ length: 12 }, () => "42\n"),
    );
    const [resume, ...others] = await resumes(sandbox);
    expect(others).toEqual([]);
    expect(resume).toMatchObject({ status: "succeeded", requested_by: "system:auto-resume" });
    // It goes home, so it began with the statement that accepted it (decision 42).
    expect(resume?.["started_at"]).toBe(resume?.["created_at"]);
  });

  test("S22: a request that comes while the sandbox is being paused is answered too", async () => {
    const sandbox = await create({ auto_resume: true });
    await run(sandbox, "x = 42");
    const paused = post(sandbox, "pause");
    await until("the pause is under way", async () =>
      (await events(sandbox)).some(({ fact }) => fact === "pause_assigned"),
    );
    expect(await run(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
    expect([200, 409]).toContain((await paused).status);
  });

  test("WK3: who may not pass does not wake it, and neither does a stopped sandbox start", async () => {
    const sandbox = await create({ auto_resume: true });
    await post(sandbox, "pause");
    const stranger = await fleet.guest({ ...sandbox, auth_token: "guess" }, "/execute", {
      code: "print(x)",
    });
    expect(stranger.status).toBe(401);
    expect(await get(sandbox)).toMatchObject({ status: "paused" });
    await post(sandbox, "stop");
    expect(await fleet.guest(sandbox, "/info")).toMatchObject({
      status: 409,
      body: { code: "SANDBOX_STOPPED" },
    });
    expect(await get(sandbox)).toMatchObject({ status: "stopped" });
  });

  test("S34, S50: a resume that cannot be is an answer with the reason, never a wait without end: 429 without capacity, 409 without a snapshot", async () => {
    const sandbox = await create({ auto_resume: true });
    await post(sandbox, "pause");
    const dir = join(fleet.fleet.dir, "hosts/host-1/vm", String(sandbox["id"]));
    const images = (await readdir(dir))
      .filter((name) => /^snap\.\d+$/.test(name))
      .map((name) => join(name, "memory"));
    expect(images).not.toEqual([]);
    for (const name of images) await writeFile(join(dir, name), "damaged");
    const answer = await fleet.guest(sandbox, "/info");
    expect(answer).toMatchObject({ status: 409, body: { code: "SNAPSHOT_INVALID" } });
    expect(await get(sandbox)).toMatchObject({ status: "paused" });
    await fleet.call("DELETE", pathOf(sandbox));

    const crowded = await create({ auto_resume: true });
    await post(crowded, "pause");
    await Promise.all(Array.from({ length: PLACES }, () => create()));
    expect(await fleet.guest(crowded, "/info")).toMatchObject({
      status: 429,
      body: { code: "RESOURCE_LIMIT_ERROR" },
    });
    expect(await get(crowded)).toMatchObject({ status: "paused" });
  });
});
