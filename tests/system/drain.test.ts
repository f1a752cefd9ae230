/** Taking a host out of use while its sandboxes are in use, on simulated hosts. */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import {
  readGuestFile,
  ROOT,
  runCode,
  type SandboxResource,
  startTestFleet,
  type TestFleet,
  until,
  writeGuestFile,
} from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

const run = promisify(execFile);

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const DRAIN_LIMIT_MS = 60_000;
const made: string[] = [];

const host = (id: string) => fleet.client.hosts.get(id);
const view = (id: string) => fleet.client.sandboxes.get(id);
const printed = async (sandbox: SandboxResource) => (await runCode(sandbox, "print(x)")).stdout;
const drainIs = (id: string, ...statuses: string[]) =>
  fleet.untilHost(
    `the drain of ${id} is ${statuses.join(" or ")}`,
    id,
    ({ drain }) => statuses.includes(drain?.status ?? ""),
    DRAIN_LIMIT_MS,
  );

/** Creates sandboxes on host-1, each with a value in its memory. */
async function onHostOne(count: number): Promise<SandboxResource[]> {
  await fleet.client.hosts.cordon("host-2");
  const created = await Promise.all(Array.from({ length: count }, () => fleet.createSandbox()));
  await fleet.client.hosts.uncordon("host-2");
  for (const [at, sandbox] of created.entries()) {
    expect(sandbox).toMatchObject({ node_id: "host-1" });
    made.push(sandbox.id);
    await runCode(sandbox, `x = ${at}`);
  }
  return created;
}

afterEach(async () => {
  const { hosts } = fleet.client;
  for (const id of made.splice(0)) await fleet.call("DELETE", `/v1/sandboxes/${id}`);
  for (const id of ["host-1", "host-2"]) {
    if ((await host(id)).state === "draining") await hosts.abortDrain(id);
    await fleet.untilHost(
      `the drain of ${id} is over`,
      id,
      ({ drain }) => !["active", "undoing"].includes(drain?.status ?? ""),
      DRAIN_LIMIT_MS,
    );
    await hosts.uncordon(id);
    await fleet.untilHost(`${id} is empty`, id, (seen) => Object.keys(seen.sandboxes).length === 0);
  }
});

describe("S30, S36, S39: a drain", () => {
  test("moves what runs with its memory, one at a time, and what is paused or stopped to the store; a scheduler dies on the way", async () => {
    const [first, stopped, ...others] = await onHostOne(5);
    if (first === undefined || stopped === undefined) throw new Error("nothing was created");
    const { sandboxes, hosts } = fleet.client;
    await sandboxes.pause(first.id, { waitFor: "replicated" });
    await writeGuestFile(stopped, "/workspace/note", "kept");
    await sandboxes.stop(stopped.id);
    const begun = await hosts.drain("host-1", { max_parallel: 1 });
    expect(begun).toMatchObject({ state: "draining", drain: { status: "active" } });
    let mostAway = 0;
    const copied = [begun.drain?.bytes.done];
    let isKilled = false;
    const done = await until(
      "the drain is done",
      async () => {
        // One list request: with a request per sandbox, a sandbox that is away at the first one may
        // be back at the last.
        const all = await Array.fromAsync(sandboxes.list());
        const seen = all.filter(({ id }) => others.some((other) => other.id === id));
        mostAway = Math.max(mostAway, seen.filter(({ status }) => status !== "running").length);
        const now = await host("host-1");
        if (now.drain !== null) copied.push(now.drain.bytes.done);
        if (!isKilled && (now.drain?.sandboxes.moving ?? 0) > 0) {
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
      expect(await view(sandbox.id)).toMatchObject({ status: "running", node_id: "host-2" });
      expect(await printed(sandbox)).toBe(`${at + 2}\n`);
    }
    const released = await view(first.id);
    expect(released).toMatchObject({ status: "paused", durability: "replicated" });
    expect(released.node_id).toBeUndefined();
    expect(await sandboxes.resume(first.id)).toMatchObject({ status: "running" });
    expect(await view(first.id)).toMatchObject({ node_id: "host-2" });
    expect(await printed(first)).toBe("0\n");
    expect(await view(stopped.id)).toMatchObject({
      status: "stopped",
      durability: "replicated",
    });
    expect(await sandboxes.start(stopped.id)).toMatchObject({ status: "running" });
    expect(await view(stopped.id)).toMatchObject({ node_id: "host-2" });
    expect(await readGuestFile(stopped, "/workspace/note")).toBe("kept");
    const history = await hosts.events("host-1", { limit: 2 });
    expect(history.data.map(({ fact }) => fact)).toEqual(["drain_started", "drained"]);
  });

  test("leaves what users do meanwhile to them: who pauses finds it paused, who resumes finds it running", async () => {
    const [pausedOne, resumedOne] = await onHostOne(2);
    if (pausedOne === undefined || resumedOne === undefined) throw new Error("nothing was created");
    const { sandboxes, hosts } = fleet.client;
    await hosts.drain("host-1", { max_parallel: 2 });
    await fleet.untilHost(
      "both are being moved",
      "host-1",
      ({ drain }) => drain?.sandboxes.moving === 2,
    );
    const [paused, resumed] = await Promise.all([
      sandboxes.pause(pausedOne.id),
      sandboxes.resume(resumedOne.id),
    ]);
    expect(paused).toMatchObject({ status: "paused" });
    expect(resumed).toMatchObject({ status: "running" });
    await drainIs("host-1", "done");
    expect(await view(pausedOne.id)).toMatchObject({ status: "paused" });
    expect(await view(resumedOne.id)).toMatchObject({ status: "running", node_id: "host-2" });
    expect(await printed(resumedOne)).toBe("1\n");
  });

  test("that is aborted leaves every sandbox running, on a cordoned host", async () => {
    const { hosts } = fleet.client;
    const sandboxes = await onHostOne(4);
    await hosts.drain("host-1", { max_parallel: 2 });
    await fleet.untilHost(
      "something is being moved",
      "host-1",
      ({ drain }) => (drain?.sandboxes.moving ?? 0) > 0,
    );
    expect(await hosts.abortDrain("host-1")).toMatchObject({ state: "cordoned" });
    const { drain } = await drainIs("host-1", "aborted");
    expect(drain).toMatchObject({ sandboxes: { left: 0, moving: 0 } });
    for (const [at, sandbox] of sandboxes.entries()) {
      expect(await view(sandbox.id)).toMatchObject({ status: "running" });
      expect(await printed(sandbox)).toBe(`${at}\n`);
    }
    await expect(hosts.abortDrain("host-1")).rejects.toMatchObject({
      status: 409,
      code: "CONFLICT",
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
    const { hosts } = fleet.client;
    const [sandbox] = await onHostOne(1);
    await hosts.cordon("host-2");
    await expect(hosts.drain("host-1", { max_parallel: 1 })).rejects.toMatchObject({
      status: 409,
      code: "CONFLICT",
      message: expect.stringMatching(/1 are cordoned or draining.*uncordon a host/i),
      details: {
        allowed: ["cordon"],
        stranded: [{ sandboxes: 1, hosts: 1, reasons: { host_not_ready: 1 } }],
      },
    });
    expect((await host("host-1")).state).toBe("ready");

    await expect(hosts.retire("host-1")).rejects.toThrow(/1 sandbox.*Drain/);
    await hosts.cordon("host-1");
    await expect(hosts.retire("host-1")).rejects.toMatchObject({
      status: 409,
      details: { sandboxes: 1 },
    });
    expect(await view(sandbox?.id ?? "")).toMatchObject({ status: "running" });

    await hosts.uncordon("host-2");
    await hosts.drain("host-1", { max_parallel: 1 });
    const uncordon = await fleet.call("POST", "/v1/hosts/host-1/uncordon");
    if (uncordon.status !== 200)
      expect(uncordon.body).toMatchObject({
        code: "CONFLICT",
        message: expect.stringMatching(/Abort the drain first/),
      });
    await drainIs("host-1", "done");
  });
});
