/** Taking a host out of use while its sandboxes are in use, on simulated hosts. */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { ROOT, startTestFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

const run = promisify(execFile);

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

type Body = Record<string, unknown>;
interface Host extends Body {
  state: string;
  sandboxes: Record<string, number>;
  drain: {
    status: string;
    sandboxes: Record<string, number>;
    failures: Body[];
    bytes: { done: number; total: number; estimated: number };
  } | null;
}
const DRAIN_LIMIT_MS = 60_000;
const made: string[] = [];

const post = async (path: string, body: unknown = {}) =>
  await fleet.call("POST", `/v1/${path}`, { body });
const host = async (id: string) => (await fleet.call("GET", `/v1/hosts/${id}`)).body as Host;
const view = async (id: unknown) => (await fleet.call("GET", `/v1/sandboxes/${String(id)}`)).body;
const printed = async (sandbox: Body) =>
  (await fleet.guest(sandbox, "/execute", { language: "python", code: "print(x)" })).body["stdout"];
const drainIs = async (id: string, ...statuses: string[]) =>
  await until(
    `the drain of ${id} is ${statuses.join(" or ")}`,
    async () => {
      const seen = await host(id);
      return statuses.includes(seen.drain?.status ?? "") ? seen : undefined;
    },
    DRAIN_LIMIT_MS,
  );

/** Creates sandboxes on host-1, each with a value in its memory. */
async function onHostOne(count: number): Promise<Body[]> {
  await post("hosts/host-2/cordon");
  const created = await Promise.all(
    Array.from(
      { length: count },
      async () => await post("sandboxes", { template_name: "code-interpreter" }),
    ),
  );
  await post("hosts/host-2/uncordon");
  for (const [at, { status, body }] of created.entries()) {
    expect(status, JSON.stringify(body)).toBe(201);
    expect(body).toMatchObject({ node_id: "host-1" });
    made.push(String(body["id"]));
    await fleet.guest(body, "/execute", { language: "python", code: `x = ${at}` });
  }
  return created.map(({ body }) => body);
}

afterEach(async () => {
  for (const id of made.splice(0)) await fleet.call("DELETE", `/v1/sandboxes/${id}`);
  for (const id of ["host-1", "host-2"]) {
    if ((await host(id)).state === "draining") await post(`hosts/${id}/drain/abort`);
    await until(
      `the drain of ${id} is over`,
      async () => !["active", "undoing"].includes((await host(id)).drain?.status ?? ""),
      DRAIN_LIMIT_MS,
    );
    await post(`hosts/${id}/uncordon`);
    await until(`${id} is empty`, async () => Object.keys((await host(id)).sandboxes).length === 0);
  }
});

describe("S30, S36, S39: a drain", () => {
  test("moves what runs with its memory, one at a time, and what is paused or stopped to the store; a scheduler dies on the way", async () => {
    const [first, stopped, ...others] = await onHostOne(5);
    if (first === undefined || stopped === undefined) throw new Error("nothing was created");
    expect((await post(`sandboxes/${String(first["id"])}/pause?wait_for=replicated`)).status).toBe(
      200,
    );
    await fleet.guest(stopped, "/files/write", { path: "/workspace/note", content: "kept" });
    expect((await post(`sandboxes/${String(stopped["id"])}/stop`)).status).toBe(200);
    const begun = await post("hosts/host-1/drain", { max_parallel: 1 });
    expect(begun, JSON.stringify(begun.body)).toMatchObject({
      status: 200,
      body: { state: "draining", drain: { status: "active" } },
    });
    let mostAway = 0;
    const copied = [(begun.body as unknown as Host).drain?.bytes.done];
    let isKilled = false;
    const done = await until(
      "the drain is done",
      async () => {
        // One list request: with a request per sandbox, a sandbox that is away at the first one may
        // be back at the last.
        const all = (await fleet.call("GET", "/v1/sandboxes")).body["data"] as Body[];
        const seen = all.filter(({ id }) => others.some((other) => other["id"] === id));
        mostAway = Math.max(mostAway, seen.filter(({ status }) => status !== "running").length);
        const now = await host("host-1");
        if (now.drain !== null) copied.push(now.drain.bytes.done);
        if (!isKilled && (now.drain?.sandboxes["moving"] ?? 0) > 0) {
          isKilled = true;
          await fleet.fleet.kill("scheduler-1");
        }
        return now.drain?.status === "done" ? now : undefined;
      },
      DRAIN_LIMIT_MS,
    );
    await fleet.fleet.startComponent("scheduler-1");
    expect(isKilled).toBe(true);
    expect(mostAway).toBeLessThanOrEqual(1);
    expect(copied[0]).toBe(0);
    expect(new Set(copied).size, "bytes that rise").toBeGreaterThan(2);
    expect(done.drain?.bytes).toEqual({
      done: copied.at(-1),
      total: copied.at(-1),
      estimated: 0,
      per_second: expect.any(Number),
    });
    expect(done).toMatchObject({
      state: "cordoned",
      drain: { sandboxes: { total: 5, left: 0, moved: 3, released: 2, failed: 0 }, failures: [] },
    });
    for (const [at, sandbox] of others.entries()) {
      expect(await view(sandbox["id"])).toMatchObject({ status: "running", node_id: "host-2" });
      expect(await printed(sandbox)).toBe(`${at + 2}\n`);
    }
    const released = await view(first["id"]);
    expect(released).toMatchObject({ status: "paused", durability: "replicated" });
    expect(released["node_id"]).toBeUndefined();
    expect((await post(`sandboxes/${String(first["id"])}/resume`)).body).toMatchObject({
      status: "running",
    });
    expect(await view(first["id"])).toMatchObject({ node_id: "host-2" });
    expect(await printed(first)).toBe("0\n");
    expect(await view(stopped["id"])).toMatchObject({
      status: "stopped",
      durability: "replicated",
    });
    expect((await post(`sandboxes/${String(stopped["id"])}/start`)).body).toMatchObject({
      status: "running",
    });
    expect(await view(stopped["id"])).toMatchObject({ node_id: "host-2" });
    expect((await fleet.guest(stopped, "/files/read?path=/workspace/note")).body["content"]).toBe(
      "kept",
    );
    const { body: history } = await fleet.call("GET", "/v1/hosts/host-1/events?limit=2");
    expect((history["data"] as Body[]).map(({ fact }) => fact)).toEqual([
      "drain_started",
      "drained",
    ]);
  });

  test("leaves what users do meanwhile to them: who pauses finds it paused, who resumes finds it running", async () => {
    const [pausedOne, resumedOne] = await onHostOne(2);
    if (pausedOne === undefined || resumedOne === undefined) throw new Error("nothing was created");
    await post("hosts/host-1/drain", { max_parallel: 2 });
    await until(
      "both are being moved",
      async () => ((await host("host-1")).drain?.sandboxes["moving"] ?? 0) === 2,
    );
    const [paused, resumed] = await Promise.all([
      post(`sandboxes/${String(pausedOne["id"])}/pause`),
      post(`sandboxes/${String(resumedOne["id"])}/resume`),
    ]);
    expect(paused, JSON.stringify(paused.body)).toMatchObject({
      status: 200,
      body: { status: "paused" },
    });
    expect(resumed, JSON.stringify(resumed.body)).toMatchObject({
      status: 200,
      body: { status: "running" },
    });
    await drainIs("host-1", "done");
    expect(await view(pausedOne["id"])).toMatchObject({ status: "paused" });
    expect(await view(resumedOne["id"])).toMatchObject({ status: "running", node_id: "host-2" });
    expect(await printed(resumedOne)).toBe("1\n");
  });

  test("that is aborted leaves every sandbox running, on a cordoned host", async () => {
    const sandboxes = await onHostOne(4);
    await post("hosts/host-1/drain", { max_parallel: 2 });
    await until(
      "something is being moved",
      async () => ((await host("host-1")).drain?.sandboxes["moving"] ?? 0) > 0,
    );
    expect(await post("hosts/host-1/drain/abort")).toMatchObject({
      status: 200,
      body: { state: "cordoned" },
    });
    const { drain } = await drainIs("host-1", "aborted");
    expect(drain).toMatchObject({ sandboxes: { left: 0, moving: 0 } });
    for (const [at, sandbox] of sandboxes.entries()) {
      expect(await view(sandbox["id"])).toMatchObject({ status: "running" });
      expect(await printed(sandbox)).toBe(`${at}\n`);
    }
    expect(await post("hosts/host-1/drain/abort")).toMatchObject({
      status: 409,
      body: { code: "CONFLICT" },
    });
  });
});

test("./torpor hosts shows the hosts, drains one and tells how it goes, and says what is refused", async () => {
  await onHostOne(2);
  const env = { PATH: process.env["PATH"], HOPX_BASE_URL: fleet.url, HOPX_API_KEY: fleet.apiKey };
  const torpor = async (...args: string[]) =>
    await run(process.execPath, [join(ROOT, "packages/cli/src/main.ts"), "hosts", ...args], {
      env,
      timeout: DRAIN_LIMIT_MS,
    }).then(
      ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
      (error: { code: number; stdout: string; stderr: string }) => error,
    );
  expect((await torpor()).stdout).toMatch(/^HOST +STATE.*\nhost-1 +ready .*\nhost-2 +ready /);
  const drained = await torpor("drain", "host-1", "--max-parallel", "2");
  expect(drained, drained.stderr).toMatchObject({ code: 0 });
  expect(drained.stdout).toMatch(
    /^host-1: active: 0 of 2 sandboxes, .*, 0 of about \d+ MiB copied, time left not known yet\n/,
  );
  expect(drained.stdout).toMatch(
    /host-1: done: 2 of 2 sandboxes \(2 moved\), 0 moving, (\d+) of \1 MiB copied; the host is cordoned\n$/,
  );
  expect((await torpor("show", "host-1")).stdout).toMatch(/drain: done: 2 of 2/);
  expect(await torpor("abort", "host-1")).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/not being drained/),
  });
  expect(await torpor("cordon")).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/which host\? usage/),
  });
  expect((await torpor("uncordon", "host-1")).stdout).toMatch(/host-1 +ready/);
});

describe("what would leave sandboxes without a host", () => {
  test("is refused, with what to do instead", async () => {
    const [sandbox] = await onHostOne(1);
    await post("hosts/host-2/cordon");
    const last = await post("hosts/host-1/drain", { max_parallel: 1 });
    expect(last).toMatchObject({
      status: 409,
      body: {
        code: "CONFLICT",
        details: {
          allowed: ["cordon"],
          stranded: [{ sandboxes: 1, hosts: 1, reasons: { host_not_ready: 1 } }],
        },
      },
    });
    expect(last.body["message"]).toMatch(/1 are cordoned or draining.*uncordon a host/i);
    expect((await host("host-1")).state).toBe("ready");

    expect((await post("hosts/host-1/retire")).body["message"]).toMatch(/1 sandbox.*Drain/);
    await post("hosts/host-1/cordon");
    expect(await post("hosts/host-1/retire")).toMatchObject({
      status: 409,
      body: { details: { sandboxes: 1 } },
    });
    expect(await view(sandbox?.["id"])).toMatchObject({ status: "running" });

    expect(await post("hosts/host-2/uncordon")).toMatchObject({ status: 200 });
    await post("hosts/host-1/drain", { max_parallel: 1 });
    const uncordon = await post("hosts/host-1/uncordon");
    if (uncordon.status !== 200)
      expect(uncordon.body).toMatchObject({
        code: "CONFLICT",
        message: expect.stringMatching(/Abort the drain first/),
      });
    await drainIs("host-1", "done");
  });
});
