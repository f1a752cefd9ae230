/**
 * Policies: a policy that is set is kept, idle sandboxes are paused and busy ones are not, and
 * traffic resumes paused ones. Simulated hosts.
 */
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type CreateSandboxBody,
  runCode,
  type SandboxResource,
  startTestFleet,
  type TestFleet,
  undefinedIfRefused,
  until,
} from "@torpor/testkit";
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
  await fleet.deleteSandboxes();
});

const get = ({ id }: SandboxResource) => fleet.client.sandboxes.get(id);
const pause = ({ id }: SandboxResource) => fleet.client.sandboxes.pause(id);
/** Runs code in a sandbox that the system tries to pause at the same time. */
const runBetweenPauses = (sandbox: SandboxResource, code: string) =>
  until(`${code} is run`, () => runCode(sandbox, code).catch(undefinedIfRefused), 60_000);
const statusIs = ({ id }: SandboxResource, status: string) =>
  fleet.untilSandbox(`status ${status}`, id, (seen) => seen.status === status, 30_000);

describe("settings", () => {
  test("S9, S32: policies and metadata are off by default, settable, changeable, and kept over pause, resume, stop and start", async () => {
    expect(await fleet.createSandbox()).toMatchObject({
      auto_pause: null,
      auto_resume: false,
      preview_access: "public",
      preview_host: "original",
      on_host_loss: "wait",
    });
    const policies: CreateSandboxBody = {
      auto_pause: { idle_seconds: 600 },
      auto_resume: true,
      preview_access: "token",
      preview_host: "localhost",
      on_host_loss: "restore",
      metadata: { a: "1", b: "2" },
    };
    const { sandboxes } = fleet.client;
    const sandbox = await fleet.createSandbox(policies);
    expect(sandbox).toMatchObject(policies);
    for (const verb of ["pause", "resume", "stop", "start"] as const) {
      await sandboxes[verb](sandbox.id);
      expect(await get(sandbox)).toMatchObject(policies);
    }
    const patched = await sandboxes.patch(sandbox.id, {
      auto_pause: null,
      metadata: { b: null, c: "3" },
    });
    expect(patched).toMatchObject({ auto_pause: null, auto_resume: true, preview_access: "token" });
    expect(patched.metadata).toEqual({ a: "1", c: "3" });
    await pause(sandbox);
    const less = { auto_resume: false, preview_access: "public", on_host_loss: "wait" } as const;
    expect(await sandboxes.patch(sandbox.id, less)).toMatchObject({
      status: "paused",
      auto_resume: false,
      on_host_loss: "wait",
    });
    const unknown = sandboxes.patch("1795490791hbb922t4", { auto_resume: true });
    await expect(unknown).rejects.toMatchObject({ status: 404 });
  });
});

describe("auto-pause", () => {
  test("S23: an idle sandbox is paused by the system, and not again right after it was resumed", async () => {
    const sandbox = await fleet.createSandbox();
    await runCode(sandbox, "x = 42");
    await fleet.client.sandboxes.patch(sandbox.id, { auto_pause: { idle_seconds: 4 } });
    await statusIs(sandbox, "paused");
    const pausedBy =
      (await fleet.events(sandbox.id)).findLast(({ fact }) => fact === "paused")?.operation_id ??
      "";
    expect(await fleet.client.operations.get(pausedBy)).toMatchObject({
      requested_by: "system:auto-pause",
      kind: "pause",
    });
    const resumedAtMs = Date.now();
    await fleet.client.sandboxes.resume(sandbox.id);
    expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
    await statusIs(sandbox, "paused");
    expect(Date.now() - resumedAtMs).toBeGreaterThanOrEqual(4_000);
    // No pause was even tried: the resume had reset the idle clock.
    expect((await fleet.events(sandbox.id)).map(({ cause }) => cause?.code)).not.toContain(
      "SANDBOX_ACTIVE",
    );
  });

  test("S54, S25: work inside the guest stops the pause before anything is frozen; the sandbox runs on, and a pause that its user asks for is carried out all the same", async () => {
    const sandbox = await fleet.createSandbox();
    await runCode(sandbox, "active_executions = 1");
    await fleet.client.sandboxes.patch(sandbox.id, { auto_pause: { idle_seconds: 1 } });
    const refused = await until(
      "a pause is given up",
      async () =>
        (await fleet.events(sandbox.id)).find(({ cause }) => cause?.code === "SANDBOX_ACTIVE"),
      30_000,
    );
    const operation = await fleet.client.operations.get(refused.operation_id ?? "");
    expect(operation).toMatchObject({
      status: "cancelled",
      error: { code: "SANDBOX_ACTIVE" },
    });
    expect(operation.timings_ms).not.toHaveProperty("freeze_and_sync");
    expect(await get(sandbox)).toMatchObject({ status: "running" });
    // The user's pause joins the next conditional pause, while the host still finds out that the
    // condition does not hold.
    await runBetweenPauses(sandbox, "activity_delay_ms = 1000");
    const isUnderWay = ({ operation: one }: SandboxResource) => one !== undefined;
    await fleet.untilSandbox("another is under way", sandbox.id, isUnderWay);
    expect(await pause(sandbox)).toMatchObject({ status: "paused" });
    await fleet.client.sandboxes.resume(sandbox.id);
    await runBetweenPauses(sandbox, "active_executions = 0");
    await statusIs(sandbox, "paused");
  });
});

test("a page that comes back right after each pause: the pauses come later and later, and the sandbox's events say why", async () => {
  const sandbox = await fleet.createSandbox({ auto_pause: { idle_seconds: 2 }, auto_resume: true });
  for (let at = 0; at < 3; at += 1) {
    await statusIs(sandbox, "paused");
    await runCode(sandbox, "x = 1");
  }
  const told = await until(
    "the next pause is delayed",
    async () => (await fleet.events(sandbox.id)).find(({ fact }) => fact === "auto_pause_delayed"),
    30_000,
  );
  expect(told.cause).toMatchObject({
    code: "RESUMED_TOO_SOON",
    message: expect.stringMatching(/of [23] pauses of the last hour, so it is paused after [48] s/),
  });
  await statusIs(sandbox, "paused");
});

describe("auto-resume", () => {
  const resumes = async (sandbox: SandboxResource) => {
    const ids = new Set(
      (await fleet.events(sandbox.id))
        .filter(({ fact }) => fact === "resume_assigned")
        .map((event) => event.operation_id),
    );
    return await Promise.all([...ids].map((id = "") => fleet.client.operations.get(id)));
  };

  test("S31, WK1: requests to a paused sandbox wait while one operation resumes it, and go on as if nothing had been", async () => {
    const sandbox = await fleet.createSandbox({ auto_resume: true });
    await runCode(sandbox, "x = 42");
    await pause(sandbox);
    const answers = await Promise.all(
      Array.from({ length: 12 }, () => runCode(sandbox, "print(x)")),
    );
    expect(answers.map(({ stdout }) => stdout)).toEqual(Array.from({ length: 12 }, () => "42\n"));
    const [resume, ...others] = await resumes(sandbox);
    expect(others).toEqual([]);
    expect(resume).toMatchObject({ status: "succeeded", requested_by: "system:auto-resume" });
    // It goes home, so it began with the statement that accepted it (decision 42).
    expect(resume?.started_at).toBe(resume?.created_at);
  });

  test("S22: a request that comes while the sandbox is being paused is answered too", async () => {
    const sandbox = await fleet.createSandbox({ auto_resume: true });
    await runCode(sandbox, "x = 42");
    const paused = fleet.call("POST", `/v1/sandboxes/${sandbox.id}/pause`);
    await until("the pause is under way", async () =>
      (await fleet.events(sandbox.id)).some(({ fact }) => fact === "pause_assigned"),
    );
    expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
    expect([200, 409]).toContain((await paused).status);
  });

  test("WK3: who may not pass does not wake it, and neither does a stopped sandbox start", async () => {
    const sandbox = await fleet.createSandbox({ auto_resume: true });
    await pause(sandbox);
    const stranger = await fleet.guest({ ...sandbox, auth_token: "guess" }, "/execute", {
      code: "print(x)",
    });
    expect(stranger.status).toBe(401);
    expect(await get(sandbox)).toMatchObject({ status: "paused" });
    await fleet.client.sandboxes.stop(sandbox.id);
    expect(await fleet.guest(sandbox, "/info")).toMatchObject({
      status: 409,
      body: { code: "SANDBOX_STOPPED" },
    });
    expect(await get(sandbox)).toMatchObject({ status: "stopped" });
  });

  test("S34, S50: a resume that cannot be is an answer with the reason, never a wait without end: 429 without capacity, 409 without a snapshot", async () => {
    const sandbox = await fleet.createSandbox({ auto_resume: true });
    await pause(sandbox);
    const dir = join(fleet.fleet.dir, "hosts/host-1/vm", sandbox.id);
    const images = (await readdir(dir))
      .filter((name) => /^snap\.\d+$/.test(name))
      .map((name) => join(name, "memory"));
    expect(images).not.toEqual([]);
    for (const name of images) await writeFile(join(dir, name), "damaged");
    const answer = await fleet.guest(sandbox, "/info");
    expect(answer).toMatchObject({ status: 409, body: { code: "SNAPSHOT_INVALID" } });
    expect(await get(sandbox)).toMatchObject({ status: "paused" });
    await fleet.client.sandboxes.delete(sandbox.id);

    const crowded = await fleet.createSandbox({ auto_resume: true });
    await pause(crowded);
    await Promise.all(Array.from({ length: PLACES }, () => fleet.createSandbox()));
    expect(await fleet.guest(crowded, "/info")).toMatchObject({
      status: 429,
      body: { code: "RESOURCE_LIMIT_ERROR" },
    });
    expect(await get(crowded)).toMatchObject({ status: "paused" });
  });
});
