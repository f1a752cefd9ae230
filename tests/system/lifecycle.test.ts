/**
 * The lifecycle through the public API, on simulated hosts: what each transition does, and the
 * responses to repeated requests and to requests that do not fit the state.
 */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { Sandbox } from "@hopx-ai/sdk";
import { startTestFleet, type TestFleet } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

type Body = Record<string, unknown>;
const create = async (body: Body = {}): Promise<Body> => {
  const answer = await fleet.call("POST", "/v1/sandboxes", {
    body: { template_name: "code-interpreter", ...body },
  });
  expect(answer.status, JSON.stringify(answer.body)).toBe(201);
  return answer.body;
};
const post = (sandbox: Body, verb: string, headers: Record<string, string> = {}) =>
  fleet.call("POST", `/v1/sandboxes/${String(sandbox["id"])}/${verb}`, { headers });
const get = (sandbox: Body) => fleet.call("GET", `/v1/sandboxes/${String(sandbox["id"])}`);
const remove = (sandbox: Body) => fleet.call("DELETE", `/v1/sandboxes/${String(sandbox["id"])}`);
const run = async (sandbox: Body, code: string) =>
  (await fleet.guest(sandbox, "/execute", { language: "python", code })).body;

describe("a sandbox's life", () => {
  test("create answers when it runs, with everything that a client needs to reach it", async () => {
    const sandbox = await create({ metadata: { team: "search" } });
    expect(sandbox).toMatchObject({
      object: "sandbox",
      status: "running",
      template_name: "code-interpreter",
      metadata: { team: "search" },
    });
    expect(sandbox["public_host"]).toMatch(/^http:\/\/127\.\d+\.\d+\.\d+:\d+$/);
    expect(await run(sandbox, "x = 42")).toMatchObject({ success: true });
    await remove(sandbox);
  });

  test("memory survives pause and resume; files survive stop and start, memory does not", async () => {
    const sandbox = await create();
    await run(sandbox, "x = 42");
    await fleet.guest(sandbox, "/files/write", { path: "/workspace/note", content: "kept" });
    expect((await post(sandbox, "pause")).body).toMatchObject({ status: "paused" });
    expect((await get(sandbox)).body).toMatchObject({
      status: "paused",
      snapshot: { generation: 1 },
    });
    expect((await post(sandbox, "resume")).body).toMatchObject({ status: "running" });
    expect(await run(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
    expect((await post(sandbox, "stop")).body).toMatchObject({ status: "stopped" });
    expect((await post(sandbox, "start")).body).toMatchObject({ status: "running" });
    expect(String((await run(sandbox, "print(x)"))["stderr"])).toContain("NameError");
    expect((await fleet.guest(sandbox, "/files/read?path=/workspace/note")).body).toMatchObject({
      content: "kept",
    });
    await remove(sandbox);
  });

  test("no table, log or file of the database, the NATS server or a host has its environment variables in plain text", async () => {
    const secret = `hunter2-${randomBytes(16).toString("hex")}`;
    const sandbox = await create({ env_vars: { TOKEN: secret } });
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
    const sandbox = await create();
    await fleet.guest(sandbox, "/files/write", { path: "/workspace/late", content: "just now" });
    await post(sandbox, "pause");
    expect((await post(sandbox, "stop")).body).toMatchObject({ status: "stopped" });
    await post(sandbox, "start");
    expect((await fleet.guest(sandbox, "/files/read?path=/workspace/late")).body).toMatchObject({
      content: "just now",
    });
    await remove(sandbox);
  });

  test("a deleted sandbox is not found, for its owner and at its edge", async () => {
    const sandbox = await create();
    expect((await remove(sandbox)).status).toBe(200);
    const gone = await get(sandbox);
    expect(gone.status).toBe(404);
    expect(gone.body).toMatchObject({ code: "SANDBOX_NOT_FOUND" });
    expect(String(gone.body["message"])).toContain("not found");
    expect((await remove(sandbox)).status).toBe(404);
  });
});

describe("repeats and mismatches", () => {
  test("S31: a transition to where the sandbox is already is joined, not refused", async () => {
    const sandbox = await create();
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
    const sandbox = await create();
    const answers = await Promise.all(Array.from({ length: 8 }, () => post(sandbox, "pause")));
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 8 }, () => 200));
    const operations = new Set(
      answers.map(({ body }) => body["operation_id"]).filter((id) => id !== undefined),
    );
    expect(operations.size).toBe(1);
    await remove(sandbox);
  });

  test("S51: resume of a stopped sandbox is a 409 that says what is allowed", async () => {
    const sandbox = await create();
    await post(sandbox, "stop");
    const refused = await post(sandbox, "resume");
    expect(refused.status).toBe(409);
    expect(refused.body).toMatchObject({
      code: "CONFLICT",
      details: { current_state: "stopped", requested: "resume" },
    });
    expect((refused.body["details"] as { allowed: string[] }).allowed).toContain("start");
    await remove(sandbox);
  });

  test("S22, S24: pause and resume asked for at the same time: both end, and the last word is resume's", async () => {
    const sandbox = await create();
    await run(sandbox, "x = 42");
    const [paused, resumed] = await Promise.all([post(sandbox, "pause"), post(sandbox, "resume")]);
    for (const answer of [paused, resumed]) expect([200, 409]).toContain(answer.status);
    expect((await post(sandbox, "resume")).status).toBe(200);
    expect(await run(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
    await remove(sandbox);
  });

  test("S10, S11, S18: a delete is accepted in every state and ends what is under way", async () => {
    for (const verb of ["pause", "stop"]) {
      const sandbox = await create();
      const [, deleted] = await Promise.all([post(sandbox, verb), remove(sandbox)]);
      expect(deleted.status).toBe(200);
      expect((await get(sandbox)).status).toBe(404);
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
    await remove(answers[0]?.body ?? {});
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
    const { body: known } = await fleet.call("GET", "/v1/templates/code-interpreter");
    const facts = {
      image_sha256: known["image_sha256"],
      default_resources: { vcpu: 1, memory_mb: 64, disk_mb: 16 },
    };
    const template = await fleet.call("POST", "/v1/templates", {
      body: { name: "passing", ...facts },
    });
    expect(template.status, JSON.stringify(template.body)).toBe(201);
    const body = { template_name: "passing" };
    const make = (key: string) =>
      fleet.call("POST", "/v1/sandboxes", { body, headers: { "idempotency-key": key } });
    const made = await make("template-1");
    expect(made.status).toBe(201);
    expect((await fleet.call("DELETE", "/v1/templates/passing")).status).toBe(200);
    expect(await make("template-1")).toMatchObject({ status: 201, body: { id: made.body["id"] } });
    expect(await make("template-2")).toMatchObject({
      status: 404,
      body: { code: "TEMPLATE_NOT_FOUND" },
    });
    await remove(made.body);
  });

  test("Prefer: respond-async answers 202 with the operation, which ends", async () => {
    const sandbox = await create();
    const accepted = await post(sandbox, "pause", { prefer: "respond-async" });
    expect(accepted.status).toBe(202);
    const location = accepted.headers.get("location") ?? "";
    expect(location).toBe(`/v1/operations/${String(accepted.body["id"])}`);
    await expect
      .poll(async () => (await fleet.call("GET", location)).body["status"], { timeout: 60_000 })
      .toBe("succeeded");
    expect((await get(sandbox)).body).toMatchObject({ status: "paused" });
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
    const [one, other] = [await create(), await create()];
    const stranger = await fleet.guest({ ...one, auth_token: other["auth_token"] }, "/execute", {
      code: "print(1)",
    });
    expect(stranger).toMatchObject({ status: 401, body: { code: "INVALID_TOKEN" } });
    const nobody = await fetch(new URL("/execute", String(one["public_host"])), {
      method: "POST",
      body: "{}",
    });
    expect(nobody.status).toBe(401);
    await Promise.all([remove(one), remove(other)]);
  });

  test("ED3: a sandbox that does not run is a 409 at once, not a wait", async () => {
    const sandbox = await create();
    await post(sandbox, "pause");
    const answer = await fleet.guest(sandbox, "/execute", { language: "python", code: "print(1)" });
    expect(answer).toMatchObject({
      status: 409,
      body: { code: "CONFLICT", details: { current_state: "paused" } },
    });
    await remove(sandbox);
  });

  test("DP1: the host's own control calls cannot be made by a client", async () => {
    const sandbox = await create();
    const answer = await fleet.guest(sandbox, "/_torpor/shutdown", {});
    expect(answer.status).toBe(404);
    expect((await get(sandbox)).body).toMatchObject({ status: "running" });
    await remove(sandbox);
  });
});
