/**
 * Every public method of the official JavaScript SDK, unmodified, on real virtual machines. The
 * names of the tests are rows of docs/compatibility.md.
 */
import { createHmac } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Sandbox, Template } from "@hopx-ai/sdk";
import { startVmFleet, tempDir, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { errorOf, note, refused } from "./support.ts";

let fleet: TestFleet;
let sandbox: Sandbox;
beforeAll(async () => {
  fleet = await startVmFleet();
  sandbox = await create();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const access = () => ({ apiKey: fleet.apiKey, baseURL: fleet.url });
const create = async (options: object = {}) =>
  await Sandbox.create({ template: "code-interpreter", ...access(), ...options });
const statusOf = async (one: Sandbox) => (await one.getInfo()).status;

async function collect<T>(items: AsyncIterable<T>, isLast: (item: T) => boolean): Promise<T[]> {
  const seen: T[] = [];
  for await (const item of items) {
    seen.push(item);
    if (isLast(item)) break;
  }
  return seen;
}

describe("@hopx-ai/sdk 0.5.1: Sandbox", () => {
  test("create", async (context) => {
    const made = await create({ envVars: { GREETING: "hello" }, timeoutSeconds: 600 });
    expect((await made.runCode("import os; print(os.environ['GREETING'])")).stdout).toBe("hello\n");
    expect((await made.getInfo()).timeoutSeconds).toBe(600);
    await made.kill();
    note(context, "from the golden snapshot; answers when the sandbox can be used");
  });
  test("connect", async (context) => {
    const again = await Sandbox.connect(sandbox.sandboxId, fleet.apiKey, fleet.url);
    expect((await again.runCode("print('connected')")).stdout).toBe("connected\n");
    note(context, "running: as it is; paused: resumes it; stopped: the SDK itself refuses");
  });
  test("pause", async (context) => {
    await sandbox.runCode("kept = 42");
    await sandbox.pause();
    expect(await statusOf(sandbox)).toBe("paused");
    note(context, "answers when the memory is on disk and the RAM is free");
  });
  test("resume", async () => {
    await sandbox.resume();
    expect((await sandbox.runCode("print(kept)")).stdout).toBe("42\n");
  });
  test("kill", async () => {
    const made = await create();
    await made.kill();
    expect(await errorOf(() => made.getInfo())).toMatchObject({ name: "SandboxExpiredError" });
  });
  test("list", async () => {
    const ids = (await Sandbox.list({ ...access(), status: "running" })).map(
      (one) => one.sandboxId,
    );
    expect(ids).toContain(sandbox.sandboxId);
  });
  test("iter", async () => {
    const seen = await collect(
      Sandbox.iter({ ...access(), region: "local" }),
      (one) => one.sandboxId === sandbox.sandboxId,
    );
    expect(seen.at(-1)?.sandboxId).toBe(sandbox.sandboxId);
  });
  test("getInfo", async () => {
    const info = await sandbox.getInfo();
    expect(info).toMatchObject({
      sandboxId: sandbox.sandboxId,
      status: "running",
      templateName: "code-interpreter",
    });
    expect(info.resources).toMatchObject({ vcpu: 1, memoryMb: 512 });
  });
  test("setTimeout", async (context) => {
    await sandbox.setTimeout(3_600);
    expect((await sandbox.getInfo()).timeoutSeconds).toBe(3_600);
    note(context, "counts while the sandbox runs; stops while it is paused or stopped");
  });
  test("getTimeToExpiry", async () =>
    expect(await sandbox.getTimeToExpiry()).toBeGreaterThan(3_000));
  test("isExpiringSoon", async () => expect(await sandbox.isExpiringSoon(60)).toBe(false));
  test("getExpiryInfo", async () =>
    expect(await sandbox.getExpiryInfo()).toMatchObject({ hasTimeout: true, isExpired: false }));
  test("startExpiryMonitor, stopExpiryMonitor", async () => {
    const heard = new Promise<unknown>((resolve) =>
      sandbox.startExpiryMonitor(resolve, 7_200, 0.2),
    );
    await heard;
    sandbox.stopExpiryMonitor();
  });
  test("refreshToken, ensureValidToken, getToken", async (context) => {
    const before = await sandbox.getToken();
    await sandbox.refreshToken();
    await sandbox.ensureValidToken();
    expect(await sandbox.getToken()).not.toBe(before);
    expect((await sandbox.runCode("print(1)")).stdout).toBe("1\n");
    note(context, "every token stays good until the sandbox is deleted");
  });
  test("init", async () => {
    const [listed] = await Sandbox.list(access());
    await listed?.init();
    expect(await listed?.files.exists("/workspace")).toBe(true);
  });
  test("healthCheck", async () =>
    expect(await Sandbox.healthCheck(fleet.url)).toMatchObject({ status: "ok" }));
});

describe("@hopx-ai/sdk 0.5.1: Sandbox, code", () => {
  test("runCode", async (context) => {
    const plot = await sandbox.runCode(
      "import matplotlib.pyplot as plt\nplt.plot([1, 2, 4])\nplt.show()",
      { timeout: 110 },
    );
    expect(plot.stderr).toBe("");
    expect(plot.richOutputs?.some(({ type }) => type === "image/png")).toBe(true);
    const failed = await sandbox.runCode("1 / 0");
    expect(failed).toMatchObject({ success: false, exit_code: 1 });
    expect(failed.stderr).toContain("ZeroDivisionError");
    for (const [language, code] of [
      ["javascript", "console.log(6 * 7)"],
      ["bash", "echo $((6 * 7))"],
    ] as const)
      expect((await sandbox.runCode(code, { language })).stdout).toBe("42\n");
    note(
      context,
      "python (one IPython kernel, state persists), javascript, bash; go where the template has it",
    );
  });
  test("runIpython", async () =>
    expect((await sandbox.runIpython("%pwd")).stdout).toContain("/workspace"));
  test("runCodeStream", async (context) => {
    const frames = await collect(
      sandbox.runCodeStream("for i in range(5): print(i)"),
      ({ type }) => type === "complete",
    );
    const text = frames.map((frame) => (frame.type === "stdout" ? frame.data : "")).join("");
    expect(text).toBe("0\n1\n2\n3\n4\n");
    note(
      context,
      "frames go out one at a time, each after the pong of the one before: the SDK loses frames that come back to back",
    );
  });
  test("runCodeBackground, listProcesses, killProcess", async () => {
    const { process_id: id } = await sandbox.runCodeBackground("import time\ntime.sleep(600)", {
      name: "sleeper",
    });
    const find = async () => (await sandbox.listProcesses()).find((one) => one.process_id === id);
    expect((await find())?.status).toBe("running");
    await sandbox.killProcess(id);
    await until("the process is killed", async () => String((await find())?.status) === "killed");
  });
  test("runCodeAsync", async (context) => {
    const receiver = [
      "import http.server, json",
      "class H(http.server.BaseHTTPRequestHandler):",
      "  def do_POST(self):",
      "    body = self.rfile.read(int(self.headers['content-length'])).decode()",
      "    json.dump({'headers': {k.lower(): v for k, v in self.headers.items()}, 'body': body}, open('/tmp/callback.json.tmp', 'w'))",
      "    import os; os.rename('/tmp/callback.json.tmp', '/tmp/callback.json')",
      "    self.send_response(200); self.end_headers()",
      "http.server.HTTPServer(('127.0.0.1', 9999), H).serve_forever()",
    ].join("\n");
    await sandbox.runCodeBackground(receiver, { timeout: 300 });
    await until(
      "the receiver listens",
      async () =>
        (
          await sandbox.commands.run(
            "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 9999))'",
          )
        ).exit_code === 0,
    );
    await sandbox.runCodeAsync("print('later')", {
      callbackUrl: "http://127.0.0.1:9999/done",
      callbackHeaders: { "X-Mine": "yes" },
      callbackSignatureSecret: "secret",
    });
    await until("the callback came", () => sandbox.files.exists("/tmp/callback.json"), 60_000);
    const { headers, body } = JSON.parse(await sandbox.files.read("/tmp/callback.json")) as {
      headers: Record<string, string>;
      body: string;
    };
    expect(JSON.parse(body)).toMatchObject({
      status: "completed",
      success: true,
      stdout: "later\n",
    });
    expect(headers["x-mine"]).toBe("yes");
    expect(headers["x-hopx-signature"]).toBe(
      `sha256=${createHmac("sha256", "secret").update(body).digest("hex")}`,
    );
    note(
      context,
      "the callback is signed over its raw body. It is sent from inside the sandbox, so it needs egress to reach you",
    );
  });
  test("getJupyterSessions", async () =>
    expect((await sandbox.getJupyterSessions()).length).toBeGreaterThan(0));
  test("listSystemProcesses", async () =>
    expect((await sandbox.listSystemProcesses()).length).toBeGreaterThan(3));
  test("getHealth, isHealthy, ensureHealthy", async () => {
    expect(await sandbox.getHealth()).toMatchObject({ status: "healthy" });
    expect(await sandbox.isHealthy()).toBe(true);
    await sandbox.ensureHealthy();
  });
  test("getAgentInfo", async () =>
    expect(await sandbox.getAgentInfo()).toMatchObject({ vm_id: sandbox.sandboxId }));
  test.each(["getMetricsSnapshot", "getAgentMetrics"] as const)("%s", async (method) => {
    const metrics = await sandbox[method]();
    expect(metrics.total_executions).toBeGreaterThan(0);
    expect(metrics.system?.memory?.total).toBeGreaterThan(100_000_000);
  });
});

describe("@hopx-ai/sdk 0.5.1: sandbox.files", () => {
  test("write, read", async () => {
    await sandbox.files.write("/workspace/a.txt", "grüezi\n");
    expect(await sandbox.files.read("/workspace/a.txt")).toBe("grüezi\n");
  });
  test("writeBytes, readBytes", async () => {
    const bytes = Buffer.from(Array.from({ length: 1_000 }, (_, at) => at % 256));
    await sandbox.files.writeBytes("/workspace/a.bin", bytes);
    expect(Buffer.compare(await sandbox.files.readBytes("/workspace/a.bin"), bytes)).toBe(0);
  });
  test("list", async () => {
    const names = (await sandbox.files.list("/workspace")).map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining(["a.txt", "a.bin"]));
  });
  test("mkdir, exists, remove", async () => {
    await sandbox.files.mkdir("/workspace/deep/er");
    await sandbox.files.mkdir("/workspace/deep/er");
    expect(await sandbox.files.exists("/workspace/deep/er")).toBe(true);
    await sandbox.files.remove("/workspace/deep");
    expect(await sandbox.files.exists("/workspace/deep")).toBe(false);
  });
  test("upload, download", async (context) => {
    await using dir = await tempDir();
    const bytes = Buffer.alloc(5_000_000, "torpor ");
    await writeFile(join(dir.path, "local.bin"), bytes);
    await sandbox.files.upload(join(dir.path, "local.bin"), "/workspace/remote.bin");
    expect(Buffer.compare(await sandbox.files.download("/workspace/remote.bin"), bytes)).toBe(0);
    note(context, "streamed both ways");
  });
  test("errors", async (context) => {
    expect(await errorOf(() => sandbox.files.read("/workspace/none"))).toMatchObject({
      name: "FileNotFoundError",
    });
    expect(await errorOf(() => sandbox.files.read("/etc/shadow"))).toMatchObject({
      code: "PATH_NOT_ALLOWED",
    });
    note(
      context,
      "/workspace, /tmp, /root and /home may be touched; everything else is PATH_NOT_ALLOWED",
    );
  });
});

describe("@hopx-ai/sdk 0.5.1: sandbox.commands", () => {
  test("run", async () => {
    const result = await sandbox.commands.run("echo out; echo err >&2; exit 3", {
      env: { A: "1" },
      workingDir: "/tmp",
    });
    expect(result).toMatchObject({ stdout: "out\n", stderr: "err\n", exit_code: 3 });
  });
  test("runBackground", async () => {
    const started = await sandbox.commands.runBackground("sleep 300");
    expect(started.process_id).toBeTruthy();
    await sandbox.killProcess(started.process_id);
  });
});

describe("@hopx-ai/sdk 0.5.1: sandbox.env", () => {
  test("setAll, getAll", async () => {
    await sandbox.env.setAll({ ONE: "1" });
    expect(await sandbox.env.getAll()).toEqual({ ONE: "1" });
  });
  test("set, get, update, delete", async (context) => {
    await sandbox.env.set("API_TOKEN", "hidden");
    await sandbox.env.update({ TWO: "2" });
    await sandbox.env.delete("ONE");
    expect(await sandbox.env.get("TWO")).toBe("2");
    expect(await sandbox.env.get("API_TOKEN")).toBe("***MASKED***");
    expect(
      (
        await sandbox.runCode(
          "import os; print(os.environ.get('API_TOKEN'), os.environ.get('ONE'))",
        )
      ).stdout,
    ).toBe("hidden None\n");
    note(
      context,
      "values of names with KEY, SECRET, PASSWORD or TOKEN are masked; a mask that is written back stands for the value",
    );
  });
});

describe("@hopx-ai/sdk 0.5.1: sandbox.cache, sandbox.terminal, watchFiles", () => {
  test("cache.stats, cache.clear", async () => {
    expect((await sandbox.cache.stats()).cache).toHaveProperty("size");
    expect(await sandbox.cache.clear()).toHaveProperty("message");
  });
  test("terminal.connect, sendInput, resize, output", async (context) => {
    const socket = await sandbox.terminal.connect();
    const seen = collect(sandbox.terminal.output(socket), ({ type }) => type === "exit");
    sandbox.terminal.resize(socket, 120, 40);
    sandbox.terminal.sendInput(socket, "stty size; exit 7\r");
    const frames = await seen;
    const text = frames.map((frame) => (frame.type === "output" ? frame.data : "")).join("");
    expect(text).toContain("40 120");
    expect(frames.at(-1)).toMatchObject({ type: "exit", code: 7 });
    socket.close();
    note(context, "a real PTY");
  });
  test("watchFiles", async () => {
    const seen = collect(sandbox.watchFiles("/workspace"), ({ path }) =>
      path.endsWith("watched.txt"),
    );
    const keepWriting = setInterval(
      () => void sandbox.files.write("/workspace/watched.txt", String(Date.now())).catch(() => {}),
      500,
    );
    try {
      expect((await seen).at(-1)).toMatchObject({ type: "change" });
    } finally {
      clearInterval(keepWriting);
    }
  });
});

describe("@hopx-ai/sdk 0.5.1: sandbox.desktop", () => {
  test("every method", async (context) => {
    const desktop = sandbox.desktop as unknown as Record<
      string,
      (...args: unknown[]) => Promise<unknown>
    >;
    const methods = Object.getOwnPropertyNames(Object.getPrototypeOf(desktop) as object).filter(
      (name) => name !== "constructor",
    );
    for (const name of methods) {
      const error = await errorOf(async () => await desktop[name]?.("1", 1, 1, 1));
      // The SDK does not read the error body of calls that return bytes.
      if (error.name === "DesktopNotAvailableError") continue;
      expect({ name, statusCode: error.statusCode }).toEqual({ name, statusCode: 404 });
      expect(["screenshotRegion", "downloadRecording", "captureWindow"]).toContain(name);
    }
    refused(
      context,
      "DesktopNotAvailableError at once (APIError 404 where the SDK expects bytes): no template has a desktop",
    );
  });
});

describe("@hopx-ai/sdk 0.5.1: templates", () => {
  test("Sandbox.listTemplates, Sandbox.getTemplate", async () => {
    expect((await Sandbox.listTemplates(access())).map(({ name }) => name)).toEqual([
      "code-interpreter",
    ]);
    expect(await Sandbox.getTemplate("code-interpreter", access())).toMatchObject({
      name: "code-interpreter",
      language: "python",
    });
  });
  test("Sandbox.deleteTemplate", async (context) => {
    const size = { vcpu: 1, memory_mb: 64, disk_mb: 16 };
    const body = { name: "mine", image_sha256: "a".repeat(64), default_resources: size };
    expect(await fleet.call("POST", "/v1/templates", { body })).toMatchObject({ status: 201 });
    await Sandbox.deleteTemplate("mine", access());
    expect((await Sandbox.listTemplates(access())).map(({ name }) => name)).toEqual([
      "code-interpreter",
    ]);
    note(context, "with a key that has the scope operator");
  });
  test("Template.build", async (context) => {
    const template = new Template("python:3.11").runCmd("true");
    const error = await errorOf(() =>
      Template.build(template, { name: "mine", ...access() } as never),
    );
    expect(error.message).toContain("Forbidden");
    refused(context, "images are built on the hosts (infra/images)");
  });
});
