/** Running code and commands: results, limits, background, callbacks, idempotency. */
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type AgentProcess, startAgent, until } from "./harness.ts";

let agent: AgentProcess;
beforeAll(async () => {
  agent = await startAgent();
});
afterAll(async () => await agent[Symbol.asyncDispose]());

describe("code and commands", () => {
  test("a failing program is an answer", async () => {
    const { status, body } = await agent.call("POST", "/execute", {
      code: "echo out; echo err >&2; exit 3",
      language: "bash",
    });
    expect(status).toBe(200);
    expect(body).toMatchObject({
      success: false,
      stdout: "out\n",
      stderr: "err\n",
      exit_code: 3,
      language: "bash",
    });
  });

  test.each([
    ["sh", "read line; echo got:$line", "got:\n"],
    ["js", "console.log([1, 2].map((x) => x * 2).join())", "2,4\n"],
    ["node", 'import { basename } from "node:path"; console.log(basename("/a/b"))', "b\n"],
  ])("language %s runs", async (language, code, stdout) => {
    expect((await agent.call("POST", "/execute", { code, language })).body).toMatchObject({
      stdout,
      success: true,
    });
  });

  test("code larger than an argument may be runs", async () => {
    const code = `# ${"x".repeat(300_000)}\necho long`;
    expect((await agent.call("POST", "/execute", { code, language: "bash" })).body).toMatchObject({
      stdout: "long\n",
    });
  });

  test("a language that the template lacks is refused, and the refusal says what there is", async () => {
    const { status, body } = await agent.call("POST", "/execute", { code: "x", language: "cobol" });
    expect(status).toBe(400);
    expect(body["message"]).toMatch(/"language".*"cobol".*python.*javascript.*bash/);
  });

  test("both forms of a command", async () => {
    expect(
      (
        await agent.call("POST", "/commands/run", {
          command: "bash",
          args: ["-c", "echo $1", "x", "a b"],
        })
      ).body,
    ).toMatchObject({
      stdout: "a b\n",
    });
    expect(await agent.shell("echo one; echo two | cat")).toMatchObject({
      stdout: "one\ntwo\n",
      success: true,
    });
    expect(await agent.shell("exit 127")).toMatchObject({ exit_code: 127, success: false });
    expect(
      (await agent.call("POST", "/commands/run", { command: "/no/such", args: [] })).body,
    ).toMatchObject({ exit_code: 127 });
  });

  test("R1: a command whose children go on in the background returns at once", async () => {
    const body = await agent.shell("sleep 60 & echo done", { timeout: 20 });
    expect(body).toMatchObject({ stdout: "done\n", exit_code: 0, timed_out: false });
  });

  test("past its time limit a program and its children end", async () => {
    const body = await agent.shell("echo before; sleep 47.11 & sleep 47.11", { timeout: 0.5 });
    expect(body).toMatchObject({
      exit_code: 124,
      success: false,
      timed_out: true,
      stdout: "before\n",
    });
    expect(body["stderr"]).toContain("time limit of 0.5 s");
    await until(
      "its children are gone",
      async () => !String((await agent.shell("ps ax -o args"))["stdout"]).includes("sleep 47.11"),
    );
  });

  test("output above the limit is cut with a note, and the rest of the program runs", async () => {
    const body = await agent.shell("head -c 12000000 /dev/zero | tr '\\0' x; echo end >&2");
    expect(String(body["stdout"]).length).toBeLessThan(10.1 * 1024 ** 2);
    expect(body["stdout"]).toMatch(/more bytes were cut/);
    expect(body["stderr"]).toBe("end\n");
  });

  test("the request's variables win over the global ones", async () => {
    await agent.call("PUT", "/env", { env_vars: { A: "global", B: "global" } });
    expect(await agent.shell("echo $A $B", { env: { B: "own" } })).toMatchObject({
      stdout: "global own\n",
    });
    await agent.call("DELETE", "/env");
  });

  test("a client that leaves ends what it started", async () => {
    const left = new AbortController();
    const gone = agent
      .fetch("POST", "/commands/run", {
        body: JSON.stringify({ command: "sleep 48.22" }),
        signal: left.signal,
      })
      .catch(() => {});
    const isRunning = async () =>
      String((await agent.shell("ps ax -o args"))["stdout"]).includes("sleep 48.22");
    await until("it runs", isRunning);
    left.abort();
    await gone;
    await until("it is gone", async () => !(await isRunning()));
  });
});

describe("background", () => {
  test("is listed, keeps its output, and can be ended", async () => {
    const started = (
      await agent.call("POST", "/commands/background", {
        command: "echo hello; sleep 60",
        name: "sleeper",
      })
    ).body;
    expect(started).toMatchObject({ status: "running", name: "sleeper" });
    const id = String(started["process_id"]);
    const view = async () =>
      (
        (await agent.call("GET", "/execute/processes")).body["processes"] as Record<
          string,
          unknown
        >[]
      ).find((entry) => entry["process_id"] === id);
    await until("it has spoken", async () => (await view())?.["stdout"] === "hello\n");
    expect((await agent.activity())["active_executions"]).toBe(1);
    expect((await agent.call("POST", `/execute/kill/${id}`)).status).toBe(200);
    await until("it is ended", async () => (await view())?.["status"] === "killed");
    expect((await agent.call("DELETE", `/execute/kill?process_id=${id}`)).body).toMatchObject({
      status: "killed",
    });
    expect((await agent.activity())["active_executions"]).toBe(0);
  });

  test.each([
    ["exit 0", 5, "completed"],
    ["exit 4", 5, "failed"],
    ["sleep 30", 0.3, "timeout"],
  ])("%s within %d s is %s", async (code, timeout, status) => {
    const { body } = await agent.call("POST", "/execute/background", {
      code,
      language: "bash",
      timeout,
    });
    const list = async () =>
      (await agent.call("GET", "/execute/processes")).body["processes"] as Record<
        string,
        unknown
      >[];
    await until(status, async () =>
      (await list()).some(
        (entry) => entry["process_id"] === body["process_id"] && entry["status"] === status,
      ),
    );
  });

  test("background Python runs in an interpreter of its own", async () => {
    const { body } = await agent.call("POST", "/execute/background", {
      code: "print(6 * 7)",
      language: "python",
    });
    const list = async () =>
      (await agent.call("GET", "/execute/processes")).body["processes"] as Record<
        string,
        unknown
      >[];
    await until("42", async () =>
      (await list()).some(
        (entry) => entry["process_id"] === body["process_id"] && entry["stdout"] === "42\n",
      ),
    );
  });

  test("system processes are listed with numbers", async () => {
    const { body } = await agent.call("GET", "/processes");
    const processes = body["processes"] as Record<string, unknown>[];
    expect(body["count"]).toBe(processes.length);
    expect(processes[0]).toMatchObject({
      pid: expect.any(Number),
      name: expect.any(String),
      memory_mb: expect.any(Number),
      cpu_percent: expect.any(Number),
    });
  });

  test.each(["/execute/kill/proc_none", "/processes/999999999/kill", "/processes/1/kill"])(
    "POST %s: no such process",
    async (path) => {
      const { status, body } = await agent.call("POST", path);
      expect({ status, code: body["code"] }).toEqual({ status: 404, code: "PROCESS_NOT_FOUND" });
    },
  );
});

test("the callback is signed over its raw body, carries the asked headers, and is tried again", async () => {
  const calls: { headers: IncomingHttpHeaders; body: string }[] = [];
  const server = createServer((incoming, response) => {
    let body = "";
    incoming.on("data", (chunk) => (body += String(chunk)));
    incoming.on("end", () => {
      calls.push({ headers: incoming.headers, body });
      response.writeHead(calls.length === 1 ? 503 : 200).end();
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`;
  const { body } = await agent.call("POST", "/execute/async", {
    code: "echo out; exit 2",
    language: "bash",
    callback_url: url,
    callback_headers: { "X-Mine": "yes" },
    callback_signature_secret: "s3cret",
  });
  expect(body).toMatchObject({
    status: "queued",
    callback_url: url,
    execution_id: expect.stringMatching(/^exec_/),
  });
  await until("two calls", () => calls.length === 2);
  server.close();
  const { headers, body: text } = calls[1] ?? { headers: {}, body: "" };
  expect(JSON.parse(text)).toMatchObject({
    execution_id: body["execution_id"],
    status: "failed",
    success: false,
    stdout: "out\n",
    exit_code: 2,
  });
  expect(headers["x-mine"]).toBe("yes");
  expect(headers["x-hopx-signature"]).toBe(
    `sha256=${createHmac("sha256", "s3cret").update(text).digest("hex")}`,
  );
  expect(Number(headers["x-hopx-timestamp"])).toBeGreaterThan(1_700_000_000);
});

describe("Idempotency-Key", () => {
  const run = (key: string, command: string) =>
    agent.call("POST", "/commands/run", { command }, { "idempotency-key": key });

  test("S31, ID1: the same request joins what runs, and later gets what came of it: it ran once", async () => {
    const command = "echo run >> count; sleep 0.5; cat count";
    const [one, other] = await Promise.all([run("k1", command), run("k1", command)]);
    const later = await run("k1", command);
    expect([one, other, later].map(({ body }) => body["stdout"])).toEqual([
      "run\n",
      "run\n",
      "run\n",
    ]);
    expect(later.headers.get("idempotency-replayed")).toBe("true");
    expect(later.body).toEqual(one.body);
  });

  test("ID2: the same key with another request is refused", async () => {
    await run("k2", "echo a");
    const { status, body } = await run("k2", "echo b");
    expect({ status, code: body["code"] }).toEqual({ status: 422, code: "IDEMPOTENCY_KEY_REUSED" });
  });

  test("S15, ID3: what runs goes on when its client leaves, for the one who asks again", async () => {
    const left = new AbortController();
    const body = JSON.stringify({ command: "sleep 0.6; echo survived" });
    const headers = { "idempotency-key": "k3" };
    const gone = agent
      .fetch("POST", "/commands/run", { body, headers, signal: left.signal })
      .catch(() => {});
    await until("it runs", async () => (await agent.activity())["active_executions"] === 1);
    left.abort();
    await gone;
    expect((await run("k3", "sleep 0.6; echo survived")).body).toMatchObject({
      stdout: "survived\n",
    });
  });

  test("a refused request may be corrected under its key", async () => {
    expect(
      (await agent.call("POST", "/commands/run", { command: 7 }, { "idempotency-key": "k4" }))
        .status,
    ).toBe(400);
    expect((await run("k4", "echo ok")).body).toMatchObject({ stdout: "ok\n" });
  });

  test("ID4: a result that is too large to keep is not run again", async () => {
    const command = "echo x >> large; head -c 5000000 /dev/zero | tr '\\0' x";
    expect((await run("k5", command)).status).toBe(200);
    const { status, body } = await run("k5", command);
    expect({ status, code: body["code"] }).toEqual({ status: 409, code: "IDEMPOTENT_RESULT_GONE" });
    expect(await agent.shell("cat large")).toMatchObject({ stdout: "x\n" });
  });

  test("the memory is shown and cleared as the cache", async () => {
    await run("k6", "echo a");
    const { body } = await agent.call("GET", "/cache/stats");
    expect(body["cache"]).toMatchObject({ size: expect.any(Number), max_size: 256, ttl: 3600 });
    expect(
      Number((await agent.call("POST", "/cache/clear")).body["entries_removed"]),
    ).toBeGreaterThan(0);
    expect((await agent.call("GET", "/cache")).body["cache"]).toMatchObject({ size: 0 });
  });

  test("a key that is none is refused", async () => {
    expect((await run("a b", "echo")).body).toMatchObject({
      code: "INVALID_REQUEST",
      message: expect.stringContaining("Idempotency-Key"),
    });
  });
});

test("64 programs at the same time run; more than may run are refused, not queued", async () => {
  const all = await Promise.all(Array.from({ length: 64 }, (_, at) => agent.shell(`echo ${at}`)));
  expect(all.map((body) => Number(body["stdout"]))).toEqual(
    Array.from({ length: 64 }, (_, at) => at),
  );
  const long = await Promise.all(
    Array.from({ length: 140 }, () =>
      agent.call("POST", "/commands/background", { command: "sleep 30" }),
    ),
  );
  expect(long.filter(({ status }) => status === 200)).toHaveLength(128);
  expect(long.find(({ status }) => status !== 200)).toMatchObject({
    status: 429,
    body: { code: "RESOURCE_LIMIT_ERROR" },
  });
  const started = long
    .filter(({ status }) => status === 200)
    .map(({ body }) => String(body["process_id"]));
  await Promise.all(started.map((id) => agent.call("POST", `/execute/kill/${id}`)));
  await until("all are ended", async () => (await agent.activity())["active_executions"] === 0);
});
