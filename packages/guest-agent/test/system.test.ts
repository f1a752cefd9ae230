/**
 * Variables, metrics, the host's control calls, the tunnel to other ports, and bad input on every
 * route.
 */
import { once } from "node:events";
import { mkdir, readFile, rm } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type AgentProcess, startAgent, until } from "./harness.ts";

let agent: AgentProcess;
beforeAll(async () => {
  agent = await startAgent();
});
afterAll(async () => await agent[Symbol.asyncDispose]());

describe("/env", () => {
  const variables = async () => (await agent.call("GET", "/env")).body["env_vars"];

  test("values of secrets are masked, and a mask that is written back stands for the value", async () => {
    const { body } = await agent.call("PUT", "/env", { env_vars: { API_KEY: "k1", PLAIN: "p" } });
    expect(body).toMatchObject({ env_vars: { API_KEY: "***MASKED***", PLAIN: "p" }, count: 2 });
    await agent.call("PUT", "/env", { env_vars: { API_KEY: "***MASKED***" } });
    expect(await agent.shell("echo $API_KEY $PLAIN")).toMatchObject({ stdout: "k1\n" });
  });

  test("merge, replace, delete one, delete all", async () => {
    await agent.call("PUT", "/env", { env_vars: { A: "1" } });
    await agent.call("PATCH", "/env", { env_vars: { B: "2" }, merge: true });
    expect(await variables()).toEqual({ A: "1", B: "2" });
    await agent.call("PATCH", "/env", { env_vars: { C: "3" }, merge: false });
    expect(await variables()).toEqual({ C: "3" });
    expect((await agent.call("DELETE", "/env/C")).body).toMatchObject({ env_vars: {} });
    expect(await agent.call("DELETE", "/env/C")).toMatchObject({
      status: 404,
      body: { code: "RESOURCE_NOT_FOUND" },
    });
    await agent.call("PUT", "/env", { env_vars: { D: "4" } });
    expect((await agent.call("DELETE", "/env")).body).toMatchObject({ count: 0 });
  });

  test("variables that cannot be kept are refused, and nothing has changed", async () => {
    await agent.call("PUT", "/env", { env_vars: { KEPT: "1" } });
    const directory = join(agent.root, "var/lib/torpor");
    // A directory in place of the temporary file makes the write fail for every user, like a full
    // disk.
    await mkdir(join(directory, "env.json.tmp/x"), { recursive: true });
    const { status, body } = await agent.call("PATCH", "/env", { env_vars: { MORE: "2" } });
    expect({ status, code: body["code"] }).toEqual({ status: 400, code: "FILE_OPERATION_FAILED" });
    expect(await variables()).toEqual({ KEPT: "1" });
    await rm(join(directory, "env.json.tmp"), { recursive: true, force: true });
    expect(await readFile(join(directory, "env.json"), "utf8")).toBe('{"KEPT":"1"}');
    await agent.call("DELETE", "/env");
  });
});

describe("bad input names the field", () => {
  const CASES: [string, string, unknown, number, RegExp][] = [
    ["POST", "/execute", {}, 400, /"code"/],
    ["POST", "/execute", { code: 1 }, 400, /"code"/],
    ["POST", "/execute", { code: "x", language: 5 }, 400, /"language"/],
    ["POST", "/execute", { code: "x", timeout: "10" }, 400, /"timeout"/],
    ["POST", "/execute", { code: "x", timeout: -1 }, 400, /"timeout"/],
    ["POST", "/execute", { code: "x", workdir: "/no/such" }, 400, /"workdir"/],
    ["POST", "/execute", { code: "x", working_dir: "/etc/passwd" }, 400, /"working_dir"/],
    ["POST", "/execute", { code: "x", workdir: "a\0b" }, 400, /"workdir"/],
    ["POST", "/execute", { code: "x", env: [] }, 400, /"env"/],
    ["POST", "/execute", { code: "x", env: { A: 1 } }, 400, /"env\.A"/],
    ["POST", "/execute", { code: "x", env: { A: "\0" } }, 400, /"env\.A"/],
    ["POST", "/execute", { code: "x", env: { "1A": "x" } }, 400, /"env\.1A"/],
    ["POST", "/execute", [], 400, /object/],
    ["POST", "/execute", "{", 400, /JSON/],
    ["POST", "/execute/rich", {}, 400, /"code"/],
    ["POST", "/execute/ipython", { code: null }, 400, /"code"/],
    ["POST", "/execute/background", { code: "x", name: 1 }, 400, /"name"/],
    ["POST", "/execute/async", { code: "x" }, 400, /"callback_url"/],
    ["POST", "/execute/async", { code: "x", callback_url: "ftp://x" }, 400, /"callback_url"/],
    [
      "POST",
      "/execute/async",
      { code: "x", callback_url: "http://x", callback_headers: { "a b": "c" } },
      400,
      /"callback_headers"/,
    ],
    [
      "POST",
      "/execute/async",
      { code: "x", callback_url: "http://x", callback_headers: { Host: "c" } },
      400,
      /"callback_headers\.Host"/,
    ],
    [
      "POST",
      "/execute/async",
      { code: "x", callback_url: "http://x", callback_headers: { A: "x\r\ny" } },
      400,
      /"callback_headers\.A"/,
    ],
    [
      "POST",
      "/execute/async",
      { code: "x", callback_url: "http://x", callback_signature_secret: 1 },
      400,
      /"callback_signature_secret"/,
    ],
    ["DELETE", "/execute/kill", undefined, 400, /"process_id"/],
    ["POST", "/commands/run", {}, 400, /"command"/],
    ["POST", "/commands/run", { command: " " }, 400, /"command"/],
    ["POST", "/commands/run", { command: "a\0b" }, 400, /"command"/],
    ["POST", "/commands/run", { command: "ls", args: "x" }, 400, /"args"/],
    ["POST", "/commands/run", { command: "ls", args: ["a", "b\0"] }, 400, /"args\[1\]"/],
    ["POST", "/commands/background", { command: 1 }, 400, /"command"/],
    ["GET", "/files/read", undefined, 400, /"path"/],
    ["GET", "/files/read?path=x&encoding=latin9", undefined, 400, /"encoding"/],
    ["GET", "/files/exists?path=", undefined, 400, /"path"/],
    ["POST", "/files/write", { path: "x" }, 400, /"content"/],
    ["POST", "/files/write", { content: "x" }, 400, /"path"/],
    ["POST", "/files/write", { path: "x", content: "x", mode: "rwx" }, 400, /"mode"/],
    ["POST", "/files/write", { path: "x", content: "x", overwrite: "no" }, 400, /"overwrite"/],
    ["POST", "/files/write", { path: "x", content: "x", encoding: "hex" }, 400, /"encoding"/],
    ["POST", "/files/write", { path: "x", content: "!!", encoding: "base64" }, 400, /"content"/],
    ["POST", "/files/mkdir", { path: 1 }, 400, /"path"/],
    ["DELETE", "/files/remove", undefined, 400, /"path"/],
    ["PUT", "/env", {}, 400, /"env_vars"/],
    ["PUT", "/env", { env_vars: { A: null } }, 400, /"env_vars\.A"/],
    ["PUT", "/env", { env_vars: { A: "x".repeat(300_000) } }, 400, /"env_vars\.A"/],
    ["PATCH", "/env", { env_vars: {}, merge: "yes" }, 400, /"merge"/],
    ["PUT", "/files/read", undefined, 405, /PUT/],
    ["GET", "/none", undefined, 404, /GET \/none/],
    ["GET", "/desktop/vnc/start", undefined, 404, /desktop/],
    ["POST", "/processes/%zz/kill", undefined, 400, /%/],
  ];

  test.each(CASES)("%s %s %j", async (method, path, body, status, message) => {
    const answer = await agent.call(method, path, body);
    expect({ status: answer.status, message: answer.body["message"] }).toEqual({
      status,
      message: expect.stringMatching(message),
    });
    expect(answer.body).toMatchObject({
      code: expect.stringMatching(/^[A-Z_]+$/),
      error: answer.body["message"],
      request_id: expect.any(String),
    });
  });

  test("a desktop is known to be missing", async () => {
    expect((await agent.call("POST", "/desktop/mouse/click", { x: 1 })).body).toMatchObject({
      code: "DESKTOP_NOT_AVAILABLE",
    });
  });

  test("calls without a body, but with its content type, are fine", async () => {
    expect((await agent.call("POST", "/cache/clear", "")).status).toBe(200);
    expect((await agent.call("GET", "/env")).status).toBe(200);
  });
});

describe("what the agent tells of itself", () => {
  test("open routes need no key, all others do", async () => {
    for (const path of ["/", "/health", "/info", "/ping", "/system"])
      expect((await fetch(`${agent.url}${path}`)).status).toBe(200);
    expect(await (await fetch(`${agent.url}/health`)).json()).toMatchObject({
      status: "healthy",
      features: { terminal: true, desktop: false },
    });
    for (const path of ["/env", "/metrics", "/_torpor/activity"])
      expect((await fetch(`${agent.url}${path}`)).status).toBe(401);
  });

  test("metrics are real numbers", async () => {
    await agent.shell("true");
    const { body } = await agent.call("GET", "/metrics/snapshot");
    expect(body).toMatchObject({
      active_executions: 0,
      total_executions: expect.any(Number),
      system: { cpu: { cores: expect.any(Number) } },
    });
    const { memory, disk } = body["system"] as Record<"memory" | "disk", Record<string, number>>;
    for (const { total, used, free } of [memory, disk])
      expect(total).toBe((used ?? 0) + (free ?? 0));
    expect(memory["total"]).toBeGreaterThan(1024 ** 2);
    const text = await (await agent.fetch("GET", "/metrics/prometheus")).text();
    expect(text).toMatch(
      /^# TYPE torpor_agent_requests_total counter\ntorpor_agent_requests_total \d+$/m,
    );
  });

  test("S54: activity counts what users do, and not who looks at it", async () => {
    const running = agent.shell("sleep 0.8");
    await until("it is counted", async () => (await agent.activity())["active_requests"] === 1);
    expect(await agent.activity()).toMatchObject({ active_executions: 1, last_activity_ms_ago: 0 });
    await running;
    await new Promise((resolve) => setTimeout(resolve, 300));
    await fetch(`${agent.url}/health`);
    const idle = await agent.activity();
    expect(idle).toMatchObject({ active_requests: 0, active_executions: 0, open_streams: 0 });
    expect(idle["last_activity_ms_ago"]).toBeGreaterThanOrEqual(250);
  });
});

describe("S48: the agent's helpers may be killed", () => {
  test("the next call of the host starts a new one", async () => {
    // The helper of this agent: other agents of this machine have one each.
    const children = String(
      (await agent.shell(`ps -o pid=,args= --ppid ${agent.process.pid}`))["stdout"],
    );
    const helper = /^\s*(\d+) .*guest_helper\.py/m.exec(children)?.[1];
    expect(helper, children).toBeDefined();
    // The call may come before or after the agent detects the end of the helper.
    process.kill(Number(helper), "SIGKILL");
    expect((await agent.call("POST", "/_torpor/prepare-pause", {})).body).toMatchObject({
      synced: true,
    });
    expect((await agent.call("POST", "/_torpor/thaw", {})).status).toBe(200);
  });
});

describe("a pause breaks connections, not executions", () => {
  test("what was begun before runs to its end", async () => {
    const left = new AbortController();
    const body = JSON.stringify({ command: "sleep 1.5; echo through > through" });
    const cut = agent.fetch("POST", "/commands/run", { body, signal: left.signal }).catch(() => {});
    await until("it runs", async () => (await agent.activity())["active_executions"] === 1);
    await agent.call("POST", "/_torpor/prepare-pause", {});
    left.abort();
    await cut;
    // The agent detects the end of a connection a moment after its client, and must do so before
    // the thaw.
    await sleep(500);
    await agent.call("POST", "/_torpor/thaw", {});
    await until(
      "it has run",
      async () =>
        (await readFile(agent.workspace("through"), "utf8").catch(() => "")) === "through\n",
    );
  });
});

describe("/_torpor/tunnel", () => {
  const listen = async (
    host: string,
    serve: (server: Server) => Server,
  ): Promise<[Server, number]> => {
    const server = serve(createServer({ allowHalfOpen: true })).listen(0, host);
    await once(server, "listening");
    return [server, (server.address() as AddressInfo).port];
  };
  const upgrade = async (
    port: number | string,
    first = "",
    headers = "x-torpor-agent-key: test-key\r\n",
  ) => {
    const socket = connect({ port: agent.port, host: "127.0.0.1", allowHalfOpen: true });
    let text = "";
    socket.on("data", (data) => (text += data.toString("latin1")));
    socket.write(
      `GET /_torpor/tunnel?port=${port} HTTP/1.1\r\nhost: guest\r\n${headers}connection: Upgrade\r\nupgrade: torpor-tunnel\r\n\r\n${first}`,
    );
    return { socket, text: () => text };
  };

  const isV6 = networkInterfaces()["lo"]?.some(({ address }) => address === "::1") === true;
  test.each(["127.0.0.1", ...(isV6 ? ["::1"] : [])])(
    "bytes go both ways to a port on %s, and each side may end first",
    async (host) => {
      const [server, port] = await listen(host, (made) =>
        made.on("connection", (socket) => socket.pipe(socket)),
      );
      const large = "x".repeat(3_000_000);
      const { socket, text } = await upgrade(port, "first");
      await until("the echo", () => text().endsWith("first"));
      expect(text()).toMatch(/^HTTP\/1\.1 101 /);
      expect((await agent.activity())["open_streams"]).toBe(1);
      socket.end(large);
      await once(socket, "end");
      expect(text().endsWith(`first${large}`)).toBe(true);
      await until("nothing is open", async () => (await agent.activity())["open_streams"] === 0);
      server.close();
    },
  );

  test("a client that leaves closes the port's connection, and the other way round", async () => {
    const sockets: { destroyed: boolean; destroy(): void }[] = [];
    const [server, port] = await listen("127.0.0.1", (made) =>
      made.on(
        "connection",
        (socket) =>
          void sockets.push(
            socket
              .on("error", () => {})
              .on("end", () => socket.end())
              .resume(),
          ),
      ),
    );
    const one = await upgrade(port);
    await until("open", () => one.text().includes("101"));
    one.socket.destroy();
    await until("closed there", () => sockets[0]?.destroyed === true);
    const other = await upgrade(port);
    await until("open", () => sockets.length === 2 && other.text().includes("101"));
    sockets[1]?.destroy();
    await once(other.socket, "end");
    other.socket.destroy();
    server.close();
  });

  test.each([
    ["1", 404, "PORT_NOT_OPEN"],
    ["0", 400, "INVALID_REQUEST"],
    ["70000", 400, "INVALID_REQUEST"],
    ["x", 400, "INVALID_REQUEST"],
    ["", 400, "MISSING_PARAMETER"],
  ])("port %j is refused with %d %s", async (port, status, code) => {
    const { socket, text } = await upgrade(port);
    await once(socket, "end");
    expect(text()).toMatch(new RegExp(`^HTTP/1\\.1 ${status} [^]*"code":"${code}"`));
    socket.destroy();
  });

  test("only the host may", async () => {
    const { socket, text } = await upgrade("80", "", "");
    await once(socket, "end");
    expect(text()).toMatch(/^HTTP\/1\.1 401 /);
    socket.destroy();
  });
});
