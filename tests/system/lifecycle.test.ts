/**
 * The lifecycle through the public API, on simulated hosts: what each transition does, and the
 * responses to repeated requests and to requests that do not fit the state.
 */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { Sandbox } from "@hopx-ai/sdk";
import {
  readGuestFile,
  runCode,
  type SandboxResource,
  startTestFleet,
  type TestFleet,
  writeGuestFile,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const post = ({ id }: SandboxResource, verb: string, headers: Record<string, string> = {}) =>
  fleet.call("POST", `/v1/sandboxes/${id}/${verb}`, { headers });
const get = ({ id }: SandboxResource) => fleet.client.sandboxes.get(id);
const remove = ({ id }: SandboxResource) => fleet.client.sandboxes.delete(id);

describe("a sandbox's life", () => {
  test("create answers when it runs, with everything that a client needs to reach it", async () => {
    const sandbox = await fleet.createSandbox({ metadata: { team: "search" } });
    expect(sandbox).toMatchObject({
      object: "sandbox",
      status: "running",
      template_name: "code-interpreter",
      metadata: { team: "search" },
    });
    expect(sandbox.public_host).toMatch(/^http:\/\/127\.\d+\.\d+\.\d+:\d+$/);
    expect(await runCode(sandbox, "x = 42")).toMatchObject({ success: true });
    await remove(sandbox);
  });

  test("memory survives pause and resume; files survive stop and start, memory does not", async () => {
    const sandbox = await fleet.createSandbox();
    await runCode(sandbox, "x = 42");
    await writeGuestFile(sandbox, "/workspace/note", "kept");
    const { sandboxes } = fleet.client;
    expect(await sandboxes.pause(sandbox.id)).toMatchObject({ status: "paused" });
    expect(await get(sandbox)).toMatchObject({ status: "paused", snapshot: { generation: 1 } });
    expect(await sandboxes.resume(sandbox.id)).toMatchObject({ status: "running" });
    expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
    expect(await sandboxes.stop(sandbox.id)).toMatchObject({ status: "stopped" });
    expect(await sandboxes.start(sandbox.id)).toMatchObject({ status: "running" });
    expect((await runCode(sandbox, "print(x)")).stderr).toContain("NameError");
    expect(await readGuestFile(sandbox, "/workspace/note")).toBe("kept");
    await remove(sandbox);
  });

  test("no table, log or file of the database, the NATS server or a host has its environment variables in plain text", async () => {
    const secret = `hunter2-${randomBytes(16).toString("hex")}`;
    const sandbox = await fleet.createSandbox({ env_vars: { TOKEN: secret } });
    const logs = dirname(fleet.fleet.state.components[0]?.log ?? "");
    const readable = async (dir: string) =>
      await promisify(execFile)("grep", ["-rlF", secret, dir]).then(
        ({ stdout }) => stdout.trim().split("\n"),
        // grep ends with 1 when nothing matches.
        ({ code }: { code: number }) => (code === 1 ? [] : [`grep ended with ${code}`]),
      );
    expect(await readable(logs)).toEqual([]);
    expect(await readable(join(logs, "../postgres"))).toEqual([]);
    expect(await readable(join(logs, "../nats"))).toEqual([]);
    expect(await readable(join(logs, "../hosts"))).toEqual([]);
    await remove(sandbox);
  });

  test("S6: a file written just before a pause is there after pause, stop and start", async () => {
    const sandbox = await fleet.createSandbox();
    await writeGuestFile(sandbox, "/workspace/late", "just now");
    await fleet.client.sandboxes.pause(sandbox.id);
    expect(await fleet.client.sandboxes.stop(sandbox.id)).toMatchObject({ status: "stopped" });
    await fleet.client.sandboxes.start(sandbox.id);
    expect(await readGuestFile(sandbox, "/workspace/late")).toBe("just now");
    await remove(sandbox);
  });

  test("a deleted sandbox is not found, for its owner and at its edge", async () => {
    const sandbox = await fleet.createSandbox();
    await remove(sandbox);
    await expect(get(sandbox)).rejects.toMatchObject({
      status: 404,
      code: "SANDBOX_NOT_FOUND",
      message: expect.stringContaining("not found"),
    });
    await expect(remove(sandbox)).rejects.toMatchObject({ status: 404 });
  });
});

describe("repeats and mismatches", () => {
  test("S31: a transition to where the sandbox is already is joined, not refused", async () => {
    const sandbox = await fleet.createSandbox();
    expect(await post(sandbox, "resume")).toMatchObject({
      status: 200,
      body: { status: "running" },
    });
    expect(await post(sandbox, "start")).toMatchObject({
      status: 200,
      body: { status: "running" },
    });
    await post(sandbox, "pause");
    expect(await post(sandbox, "pause")).toMatchObject({ status: 200, body: { status: "paused" } });
    await remove(sandbox);
  });

  test("S31: concurrent identical requests share one operation", async () => {
    const sandbox = await fleet.createSandbox();
    const answers = await Promise.all(Array.from({ length: 8 }, () => post(sandbox, "pause")));
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 8 }, () => 200));
    const operations = new Set(
      answers.map(({ body }) => body["operation_id"]).filter((id) => id !== undefined),
    );
    expect(operations.size).toBe(1);
    await remove(sandbox);
  });

  test("S51: resume of a stopped sandbox is a 409 that says what is allowed", async () => {
    const sandbox = await fleet.createSandbox();
    await fleet.client.sandboxes.stop(sandbox.id);
    await expect(fleet.client.sandboxes.resume(sandbox.id)).rejects.toMatchObject({
      status: 409,
      code: "CONFLICT",
      details: {
        current_state: "stopped",
        requested: "resume",
        allowed: expect.arrayContaining(["start"]),
      },
    });
    await remove(sandbox);
  });

  test("S22, S24: pause and resume asked for at the same time: both end, and the last word is resume's", async () => {
    const sandbox = await fleet.createSandbox();
    await runCode(sandbox, "x = 42");
    const [paused, resumed] = await Promise.all([post(sandbox, "pause"), post(sandbox, "resume")]);
    for (const answer of [paused, resumed]) expect([200, 409]).toContain(answer.status);
    await fleet.client.sandboxes.resume(sandbox.id);
    expect(await runCode(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
    await remove(sandbox);
  });

  test("S10, S11, S18: a delete is accepted in every state and ends what is under way", async () => {
    for (const verb of ["pause", "stop"]) {
      const sandbox = await fleet.createSandbox();
      await Promise.all([post(sandbox, verb), remove(sandbox)]);
      await expect(get(sandbox)).rejects.toMatchObject({ status: 404 });
    }
  });
});

describe("requests that can be repeated, or that do not wait", () => {
  test("S27: one Idempotency-Key makes one sandbox, whatever the number of requests", async () => {
    const headers = { "idempotency-key": "once-1" };
    const body = { template_name: "code-interpreter" };
    const answers = await Promise.all(
      Array.from({ length: 5 }, () => fleet.call("POST", "/v1/sandboxes", { body, headers })),
    );
    expect(new Set(answers.map((answer) => answer.body["id"])).size).toBe(1);
    const other = await fleet.call("POST", "/v1/sandboxes", {
      body: { ...body, metadata: { a: "b" } },
      headers,
    });
    expect(other).toMatchObject({ status: 422, body: { code: "IDEMPOTENCY_KEY_REUSED" } });
    for (const id of ["1763309903nobody00", "no id at all"])
      expect(
        await fleet.call("POST", `/v1/sandboxes/${encodeURIComponent(id)}/pause`, { headers }),
      ).toMatchObject({
        status: 422,
        body: { code: "IDEMPOTENCY_KEY_REUSED" },
      });
    await fleet.client.sandboxes.delete(String(answers[0]?.body["id"]));
  });

  test("a key that is used again after its sandbox was deleted is told so, whatever it was sent with", async () => {
    const body = { template_name: "code-interpreter" };
    const keyed = (key: string, prefer?: string) => ({
      headers: { "idempotency-key": key, ...(prefer === undefined ? {} : { prefer }) },
    });
    const make = (prefer?: string) =>
      fleet.call("POST", "/v1/sandboxes", { body, ...keyed("gone-1", prefer) });
    const { body: sandbox } = await make();
    const path = `/v1/sandboxes/${String(sandbox["id"])}`;
    const pause = () => fleet.call("POST", `${path}/pause`, keyed("gone-2"));
    expect((await pause()).status).toBe(200);
    const kill = () => fleet.call("DELETE", path, keyed("gone-3"));
    expect((await kill()).status).toBe(200);
    for (const repeated of [await make(), await make("respond-async"), await pause()]) {
      expect(repeated).toMatchObject({
        status: 410,
        body: { code: "SANDBOX_DELETED", details: { sandbox_id: sandbox["id"] } },
      });
      expect(repeated.body["message"]).toMatch(
        /^The (create|pause) succeeded, .* a new Idempotency-Key/,
      );
      expect(repeated.body).not.toHaveProperty("auth_token");
    }
    expect(await kill()).toMatchObject({ status: 200, body: { status: "deleted" } });
    // Without the key, the same request names a sandbox that does not exist.
    expect((await fleet.call("POST", `${path}/pause`)).status).toBe(404);
  });

  test("CS3: a create is repeated after its template was deleted, and answered as before; a new one is refused", async () => {
    const { templates } = fleet.client;
    const { image_sha256 = "" } = await templates.get("code-interpreter");
    const default_resources = { vcpu: 1, memory_mb: 64, disk_mb: 16 };
    await templates.create({ name: "passing", image_sha256, default_resources });
    const body = { template_name: "passing" };
    const make = (key: string) =>
      fleet.call("POST", "/v1/sandboxes", { body, headers: { "idempotency-key": key } });
    const made = await make("template-1");
    expect(made.status).toBe(201);
    await templates.delete("passing");
    expect(await make("template-1")).toMatchObject({ status: 201, body: { id: made.body["id"] } });
    expect(await make("template-2")).toMatchObject({
      status: 404,
      body: { code: "TEMPLATE_NOT_FOUND" },
    });
    await fleet.client.sandboxes.delete(String(made.body["id"]));
  });

  test("Prefer: respond-async answers 202 with the operation, which ends", async () => {
    const sandbox = await fleet.createSandbox();
    const accepted = await post(sandbox, "pause", { prefer: "respond-async" });
    expect(accepted.status).toBe(202);
    const location = accepted.headers.get("location") ?? "";
    expect(location).toBe(`/v1/operations/${String(accepted.body["id"])}`);
    await expect
      .poll(async () => (await fleet.call("GET", location)).body["status"], { timeout: 60_000 })
      .toBe("succeeded");
    expect(await get(sandbox)).toMatchObject({ status: "paused" });
    await remove(sandbox);
  });
});

describe("the official SDK, unmodified", () => {
  test("S53: creates, finds, pauses, resumes by connecting, lists and kills", async () => {
    const options = { apiKey: fleet.apiKey, baseURL: fleet.url };
    const sandbox = await Sandbox.create({ template: "code-interpreter", ...options });
    expect((await sandbox.getInfo()).status).toBe("running");
    await sandbox.pause();
    expect((await sandbox.getInfo()).status).toBe("paused");
    const again = await Sandbox.connect(sandbox.sandboxId, fleet.apiKey, fleet.url);
    expect((await again.getInfo()).status).toBe("running");
    const listed = await Sandbox.list(options);
    expect(listed.map(({ sandboxId }) => sandboxId)).toContain(sandbox.sandboxId);
    await again.kill();
    await expect(sandbox.getInfo()).rejects.toThrow(/not found/i);
  });
});

describe("the edge", () => {
  test("ED2: one sandbox's token is refused by every other, and no token by each", async () => {
    const [one, other] = [await fleet.createSandbox(), await fleet.createSandbox()];
    const stranger = await fleet.guest({ ...one, auth_token: other.auth_token ?? "" }, "/execute", {
      code: "print(1)",
    });
    expect(stranger).toMatchObject({ status: 401, body: { code: "INVALID_TOKEN" } });
    const nobody = await fetch(new URL("/execute", one.public_host), {
      method: "POST",
      body: "{}",
    });
    expect(nobody.status).toBe(401);
    await Promise.all([remove(one), remove(other)]);
  });

  test("ED3: a sandbox that does not run is a 409 at once, not a wait", async () => {
    const sandbox = await fleet.createSandbox();
    await fleet.client.sandboxes.pause(sandbox.id);
    const answer = await fleet.guest(sandbox, "/execute", { language: "python", code: "print(1)" });
    expect(answer).toMatchObject({
      status: 409,
      body: { code: "CONFLICT", details: { current_state: "paused" } },
    });
    await remove(sandbox);
  });

  test("DP1: the host's own control calls cannot be made by a client", async () => {
    const sandbox = await fleet.createSandbox();
    const answer = await fleet.guest(sandbox, "/_torpor/shutdown", {});
    expect(answer.status).toBe(404);
    expect(await get(sandbox)).toMatchObject({ status: "running" });
    await remove(sandbox);
  });
});
