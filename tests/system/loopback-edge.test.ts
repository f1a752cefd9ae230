/**
 * The edge on loopback addresses: one listener for all agents, what the listener does not serve,
 * and the ports that it leaves to other programs. Simulated hosts.
 */
import { execFile } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, createConnection, createServer, type Server } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { promisify } from "node:util";
import { claimPort, residentBytes } from "@torpor/service";
import {
  ROOT,
  runCode,
  type SandboxResource,
  startTestFleet,
  tempDir,
  type TestFleet,
  until,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

type Body = Record<string, unknown>;
const MIB = 1024 ** 2;
const run = promisify(execFile);

async function listen(port: number, host: string): Promise<Server | undefined> {
  const server = createServer((socket) => socket.end("another program"));
  return await new Promise((resolve) => {
    server.once("error", () => resolve(undefined));
    server.listen(port, host, () => resolve(server));
  });
}

const addressOf = (sandbox: SandboxResource) => new URL(sandbox.public_host).hostname;

describe("of a fleet", () => {
  let fleet: TestFleet;
  beforeAll(async () => {
    fleet = await startTestFleet({ hosts: 1, schedulers: 1, gateways: 2 });
  });
  afterAll(async () => {
    await fleet[Symbol.asyncDispose]();
  });

  const edgePort = () => fleet.fleet.state.edgePort;

  test("each gateway has one listener for the agents of all sandboxes", async () => {
    for (const _ of [1, 2, 3]) {
      const { status } = await fleet.guest(await fleet.createSandbox(), "/health");
      expect(status).toBe(200);
    }
    const port = edgePort().toString(16).toUpperCase().padStart(4, "0");
    const listeners = readFileSync("/proc/net/tcp", "utf8").match(
      new RegExp(String.raw`[0-9A-F]{8}:${port} 0{8}:0{4} 0A`, "g"),
    );
    expect(listeners).toEqual([
      `00000000:${port} 00000000:0000 0A`,
      `00000000:${port} 00000000:0000 0A`,
    ]);
  });

  test.each(["127.0.0.1", "127.63.255.255", "127.127.255.254", "127.255.0.1"])(
    "%s, which is no sandbox's, is answered in JSON",
    async (address) => {
      const answer = await fetch(`http://${address}:${edgePort()}/health`);
      expect(answer.status).toBe(404);
      expect(await answer.json()).toMatchObject({
        code: "SANDBOX_NOT_FOUND",
        request_id: answer.headers.get("x-request-id"),
      });
    },
  );

  test("a deleted sandbox's address is answered in the same way", async () => {
    const sandbox = await fleet.createSandbox();
    await fleet.client.sandboxes.delete(sandbox.id);
    const answer = await fleet.guest(sandbox, "/health");
    expect([answer.status, answer.body["code"]]).toEqual([404, "SANDBOX_NOT_FOUND"]);
  });

  const outside = Object.values(networkInterfaces())
    .flatMap((addresses = []) => addresses)
    .find(({ family, internal }) => family === "IPv4" && !internal)?.address;

  test.skipIf(outside === undefined)(
    "nothing is served at an address that others reach",
    async () => {
      const socket = createConnection({ host: outside ?? "", port: edgePort() });
      await once(socket, "connect");
      socket.write("GET /health HTTP/1.1\r\nhost: h\r\n\r\n");
      expect(await text(socket).catch(() => "")).toBe("");
    },
  );

  test("a guest's port is taken at its own address alone: other programs of this machine keep it, and get it", async () => {
    const app = createHttpServer((_, response) => response.end("the guest's"));
    await once(app.listen(0, "127.0.0.1"), "listening");
    const { port } = await claimPort();
    const before = await listen(port, "127.0.0.1");
    const sandbox = await fleet.createSandbox();
    const { port: inGuest } = app.address() as AddressInfo;
    await runCode(sandbox, `port_${port} = ${inGuest}`);
    const said = async (host: string) => await text(createConnection({ host, port }));
    const preview = `http://${addressOf(sandbox)}:${port}`;
    const served = await until("it is served", () => fetch(preview).catch(() => undefined));
    expect(await served.text()).toBe("the guest's");
    expect(await said("127.0.0.1")).toBe("another program");
    before?.close();
    const after = await listen(port, "127.0.0.1");
    expect(after).toBeDefined();
    after?.close();
    app.closeAllConnections();
    app.close();
  });
});

describe("a gateway that cannot have what it is asked for", () => {
  const gateway = join(ROOT, "apps/gateway/src/main.ts");
  const stack = new AsyncDisposableStack();
  let env: Record<string, string>;
  beforeAll(async () => {
    const dir = stack.use(await tempDir());
    const secret = join(dir.path, "secret");
    writeFileSync(secret, "x".repeat(32));
    const { port } = await claimPort();
    env = {
      PATH: process.env["PATH"] ?? "",
      DATABASE_URL: `postgres://x:x@127.0.0.1:${port}/x`,
      NATS_URL: `nats://127.0.0.1:${port}`,
      TOKEN_SECRET_FILE: secret,
      LISTEN_PORT: "0",
      HEALTH_PORT: "0",
    };
  });
  afterAll(async () => {
    await stack.disposeAsync();
  });
  const failing = async (command: string, more: Record<string, string> = {}) =>
    await run("sh", ["-c", command, process.execPath, gateway], {
      env: { ...env, ...more },
      timeout: 30_000,
    }).then(
      () => ({ code: 0, stderr: "", stdout: "" }),
      (error: { code: number; stderr: string; stdout: string }) => error,
    );

  test("says which port another program has, and ends", async () => {
    const { port } = await claimPort();
    const other = await listen(port, "127.0.0.1");
    const { code, stdout } = await failing('exec "$0" "$1"', { EDGE_PORT: String(port) });
    other?.close();
    expect(code).toBe(1);
    expect(stdout).toContain(
      `port ${port} cannot be listened on, for the agents of sandboxes: another program has it`,
    );
  });

  test("says how many open files it needs, in one line, and ends", async () => {
    const { port } = await claimPort();
    const few = await failing('ulimit -n 600; exec "$0" "$1"', { EDGE_PORT: String(port) });
    expect([few.code, few.stdout]).toEqual([1, ""]);
    expect(few.stderr.trim().split("\n")).toHaveLength(1);
    expect(few.stderr).toMatch(
      /may have 600 files open.* need 2812: raise the limit \(`ulimit -n 2812`/,
    );
    const many = await failing('exec "$0" "$1"', {
      EDGE_PORT: String(port),
      CONNECTIONS_MAX: "1000000",
    });
    expect(many.stderr).toMatch(/need 3001276: raise the limit/);
  });
});

describe("many sandboxes that stand still", () => {
  const stands = async (count: number) => {
    await using fleet = await startTestFleet({ hosts: 1, schedulers: 1 });
    const sandbox = await fleet.createSandbox();
    await using sql = closing(
      postgres(fleet.fleet.state.databaseUrl, { max: 1, onnotice: () => {} }),
    );
    await copyPaused(sql.sql, sandbox.id, count);
    await sql.sql`ANALYZE sandboxes`;
    const name = "gateway-1";
    await fleet.fleet.kill(name);
    const startedAt = performance.now();
    await fleet.fleet.startComponent(name);
    expect((await fleet.guest(sandbox, "/health")).status).toBe(200);
    const servedMs = Math.round(performance.now() - startedAt);
    for (let times = 0; times < 5; times += 1)
      for (const verb of ["pause", "resume"] as const)
        await fleet.client.sandboxes[verb](sandbox.id);
    const paused = { public_host: `http://127.128.0.2:${fleet.fleet.state.edgePort}` };
    expect((await fleet.guest(paused, "/health")).body).toMatchObject({
      code: "CONFLICT",
      details: { current_state: "paused" },
    });
    // Three rounds of the gateway's edge.
    const report = async () =>
      (await (await fetch(fleet.fleet.component(name).healthUrl ?? "")).json()) as Body;
    for (let rounds = 0, at: unknown; rounds < 3; rounds += 1) {
      const seen = at;
      await until(
        "a round of the edge",
        async () => (at = ((await report())["edge"] as Body)["at"]) !== seen,
      );
    }
    expect(await report()).toMatchObject({ edge: { result: { serving: 0, watching: 1 } } });
    const pid = fleet.fleet.component(name).process?.pid ?? 0;
    const residentMib = Math.round(residentBytes(pid) / MIB);
    process.stderr.write(`${count} sandboxes: served after ${servedMs} ms, ${residentMib} MiB\n`);
    return residentMib;
  };

  test("5,000 are served by a gateway that was just started, which holds nothing of them", async () => {
    expect(await stands(5_000)).toBeLessThan(300);
  });

  test("200,000, too", { tags: ["exhaustive"], timeout: 600_000 }, async () => {
    expect(await stands(200_000)).toBeLessThan(300);
  });
});

/** Adds `count` paused sandboxes that are on no host, at addresses from 127.128.0.2 on. */
async function copyPaused(sql: postgres.Sql, id: string, count: number): Promise<void> {
  const rows = await sql`
    SELECT column_name FROM information_schema.columns WHERE table_name = 'sandboxes' AND table_schema = 'public'`;
  const other: Record<string, string> = {
    id: "'zz' || lpad(n::text, 16, '0')",
    state: "'paused'",
    settled_state: "'paused'",
    host_id: "NULL",
    holds_memory: "false",
    auto_resume: "true",
    edge_address: "format('127.%s.%s.%s', 128 + n / 65025, n / 255 % 255, 1 + n % 255)",
  };
  const names = rows.map((row) => String(row["column_name"]));
  const values = names.map((name) => other[name] ?? `s.${name}`);
  await sql.unsafe(
    `INSERT INTO sandboxes (${names.join(", ")}) SELECT ${values.join(", ")}
    FROM sandboxes s, generate_series(1, ${count}) n WHERE s.id = $1`,
    [id],
  );
}

function closing(sql: postgres.Sql) {
  return { sql, [Symbol.asyncDispose]: () => sql.end({ timeout: 5 }) };
}
