/**
 * The toy guest exists twice: in TypeScript for the fake Cloud Hypervisor, and in Python for
 * simulated VMs, each of which is a process. The same cases run against both.
 */
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmod, mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import {
  Agent,
  type IncomingMessage,
  request as httpRequest,
  type RequestOptions,
} from "node:http";
import {
  type AddressInfo,
  createConnection,
  createServer,
  type Server,
  type Socket,
} from "node:net";
import { join } from "node:path";
import { buffer, text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { residentBytes } from "@torpor/service";
import { simulatedVcpusRun, tempDir, until } from "@torpor/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { findPython } from "../src/drivers/simulated/program.ts";
import { DISK_BYTES, startProcess, startToy, type Toy, TOY_NAMES } from "./support/toys.ts";

type Body = Record<string, unknown>;

/** Long enough for a response of a toy that does not wait. */
const SILENCE_MS = 150;
const MAX_RESIDENT_BYTES = 20 * 1024 * 1024;
/** More than all buffers of two connections hold. */
const LARGE_BYTES = 48 * 1024 * 1024;
const TUNNEL =
  "GET /_torpor/tunnel?port=3000 HTTP/1.1\r\nhost: guest\r\n" +
  "connection: Upgrade\r\nupgrade: torpor-tunnel\r\n\r\n";
/** Memory and files of releases up to 0.1.0, whose simulated VMs ran the toy in TypeScript. */
const RELEASED_MEMORY =
  '{"variables":{"x":"42","word":"\\"Grüße\\""},' +
  '"agentKey":"key","sandboxId":"1795490791abcdefgh"}';
const RELEASED_FILES = '{"/workspace/note":"Grüße"}';

/** A request by Node's fetch and its connection pool. A body makes it a POST. */
async function call(
  toy: Toy,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<{ status: number; body: Body }> {
  const post = {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  const limit = AbortSignal.any([
    AbortSignal.timeout(60_000),
    ...(signal === undefined ? [] : [signal]),
  ]);
  const answer = await fetch(`http://127.0.0.1:${toy.port}${path}`, {
    ...(body === undefined ? {} : post),
    signal: limit,
  });
  return { status: answer.status, body: (await answer.json()) as Body };
}

const execute = async (toy: Toy, code: string) => (await call(toy, "/execute", { code })).body;

/** A request by Node's own client, whose connection the agent chooses. */
async function send(toy: Toy, options: RequestOptions, parts: string[] = []) {
  const request = httpRequest({ host: "127.0.0.1", port: toy.port, ...options });
  for (const part of parts) request.write(part);
  request.end();
  const [answer] = (await once(request, "response")) as [IncomingMessage];
  return { status: answer.statusCode, text: await text(answer), isReused: request.reusedSocket };
}

async function open(toy: Toy): Promise<Socket> {
  const socket = createConnection({ port: toy.port, host: "127.0.0.1", allowHalfOpen: true });
  socket.on("error", () => socket.destroy());
  await once(socket, "connect");
  return socket;
}

/** The request as sent over the wire. */
function executing(code: string, ...headers: string[]): string {
  const body = JSON.stringify({ code });
  const head = ["POST /execute HTTP/1.1", "Host: guest", `Content-Length: ${body.length}`];
  return [...head, ...headers, "", body].join("\r\n");
}

/** Adds a check whether the promise has ended, without waiting for it. */
function watched<T>(promise: Promise<T>): { promise: Promise<T>; isSettled: () => boolean } {
  let settled = false;
  const complete = () => void (settled = true);
  promise.then(complete, complete);
  return { promise, isSettled: () => settled };
}

describe.each(TOY_NAMES)("the toy in %s", (name) => {
  let toy: Toy;
  beforeEach(async () => {
    toy = await startToy(name);
    await toy.run();
  });
  afterEach(async () => {
    await toy[Symbol.asyncDispose]();
  });

  test("is healthy, and knows whose it is", async () => {
    expect(await call(toy, "/health")).toEqual({ status: 200, body: { status: "healthy" } });
    expect(await call(toy, "/info")).toEqual({ status: 200, body: { vm_id: "" } });
    for (const [path, sandboxId] of [
      ["/_torpor/post-boot", "1795490791aaaaaaaa"],
      ["/_torpor/post-restore", "1795490791bbbbbbbb"],
    ] as const) {
      expect(await call(toy, path, { agentKey: "key", sandboxId })).toEqual({
        status: 200,
        body: {},
      });
      expect((await call(toy, "/info")).body).toEqual({ vm_id: sandboxId });
    }
    expect(await call(toy, "/nonsense")).toEqual({
      status: 404,
      body: { error: "unknown path", code: "NOT_FOUND" },
    });
  });

  test("answers what the host asks around a pause", async () => {
    expect((await call(toy, "/_torpor/warm", {})).body).toEqual({});
    expect((await call(toy, "/_torpor/prepare-pause", { timeoutMs: 1 })).body).toEqual({
      frozen: true,
      synced: true,
    });
    expect((await call(toy, "/_torpor/thaw", {})).body).toEqual({});
  });

  test("assigns and prints; what it does not understand is an error of the code", async () => {
    const done = {
      stdout: "",
      stderr: "",
      exit_code: 0,
      success: true,
      execution_time: expect.any(Number) as number,
    };
    expect(await execute(toy, " x =  4 2 ")).toEqual(done);
    expect(await execute(toy, "print(x)\n")).toEqual({ ...done, stdout: "4 2\n" });
    await execute(toy, "greeting = 'Grüße'");
    expect(await execute(toy, "print(greeting)")).toEqual({ ...done, stdout: "'Grüße'\n" });
    const failed = { ...done, exit_code: 1, success: false };
    expect(await execute(toy, "print(y)")).toEqual({
      ...failed,
      stderr: "NameError: name 'y' is not defined\n",
    });
    for (const code of ["import time", "x = 1\ny = 2", ""])
      expect(await execute(toy, code)).toEqual({
        ...failed,
        stderr: `NameError: name '${code}' is not defined\n`,
      });
    expect(await execute(toy, "print(x)")).toEqual({ ...done, stdout: "4 2\n" });
  });

  test("keeps files on its disk, whose size stays", async () => {
    const content = "Grüße\n".repeat(1_000);
    expect(await call(toy, "/files/write", { path: "/workspace/a b", content })).toEqual({
      status: 200,
      body: { path: "/workspace/a b" },
    });
    await call(toy, "/files/write", { path: "/workspace/ü", content: "" });
    expect((await call(toy, "/files/read", { path: "/workspace/a b" })).body).toEqual({
      path: "/workspace/a b",
      content,
    });
    expect((await call(toy, "/files/read?path=/workspace/a%20b")).body).toEqual({
      path: "/workspace/a b",
      content,
    });
    expect((await call(toy, "/files/read?path=%2Fworkspace/a+b&x")).body).toMatchObject({
      content,
    });
    expect((await call(toy, "/files/read?path=/workspace/%C3%BC")).body).toMatchObject({
      content: "",
    });
    expect((await call(toy, "/files/read?path=/nowhere")).body).toEqual({
      path: "/nowhere",
      content: null,
    });
    expect((await stat(toy.diskPath)).size).toBe(DISK_BYTES);
    await rm(toy.diskPath);
    expect(await call(toy, "/files/write", { path: "/workspace/c", content: "" })).toMatchObject({
      status: 500,
      body: { code: "INTERNAL_ERROR", message: expect.stringContaining("disk.raw") as string },
    });
  });

  test("restores memory and disk of a released version", async () => {
    const [header, files] = [Buffer.alloc(8), Buffer.from(RELEASED_FILES)];
    header.writeBigUInt64BE(BigInt(files.length));
    await writeFile(
      toy.diskPath,
      Buffer.concat([header, files, Buffer.alloc(DISK_BYTES - header.length - files.length)]),
    );
    await toy.loadMemory(Buffer.from(RELEASED_MEMORY));
    expect(await execute(toy, "print(x)")).toMatchObject({ stdout: "42\n" });
    expect(await execute(toy, "print(word)")).toMatchObject({ stdout: '"Grüße"\n' });
    expect((await call(toy, "/info")).body).toEqual({ vm_id: "1795490791abcdefgh" });
    expect((await call(toy, "/files/read?path=/workspace/note")).body).toMatchObject({
      content: "Grüße",
    });
    expect(JSON.parse((await toy.saveMemory()).toString())).toEqual(JSON.parse(RELEASED_MEMORY));
  });

  test.each(TOY_NAMES)("goes on from memory and disk of the toy in %s", async (from) => {
    await using other = await startToy(from);
    await other.run();
    await execute(other, "x = Grüße");
    await call(other, "/files/write", { path: "/workspace/note", content: "kept, 保存" });
    await other.pause();
    await writeFile(toy.diskPath, await readFile(other.diskPath));
    await toy.loadMemory(await other.saveMemory());
    expect(await execute(toy, "print(x)")).toMatchObject({ stdout: "Grüße\n" });
    await call(toy, "/files/write", { path: "/workspace/second", content: "" });
    expect((await call(toy, "/files/read?path=/workspace/note")).body).toMatchObject({
      content: "kept, 保存",
    });
  });

  test("holds requests while its vCPUs are paused, and answers them when they run", async () => {
    await toy.pause();
    const held = watched(Promise.all([call(toy, "/health"), execute(toy, "x = 42")]));
    const tunnel = await open(toy);
    tunnel.write(TUNNEL);
    const upgrade = watched(once(tunnel, "data") as Promise<[Buffer]>);
    await sleep(SILENCE_MS);
    expect([held.isSettled(), upgrade.isSettled()]).toEqual([false, false]);
    expect(JSON.parse((await toy.saveMemory()).toString())).toEqual({ variables: {} });
    await toy.run();
    expect(await held.promise).toMatchObject([{ status: 200 }, { success: true }]);
    expect(String((await upgrade.promise)[0])).toContain("PORT_NOT_OPEN");
    tunnel.destroy();
    expect(await execute(toy, "print(x)")).toMatchObject({ stdout: "42\n" });
  });

  test("a request whose client went away meanwhile is carried out all the same", async () => {
    await toy.pause();
    const socket = await open(toy);
    socket.end(executing("x = 42"));
    await sleep(SILENCE_MS);
    socket.destroy();
    await toy.run();
    await until(
      "the assignment",
      async () => (await execute(toy, "print(x)"))["stdout"] === "42\n",
    );
  });

  test("one that waits holds up no other", async () => {
    await execute(toy, "activity_delay_ms = 600000");
    const ended = new AbortController();
    const slow = watched(call(toy, "/_torpor/activity", undefined, ended.signal));
    expect(await Promise.all(Array.from({ length: 30 }, () => call(toy, "/health")))).toHaveLength(
      30,
    );
    expect(slow.isSettled()).toBe(false);
    ended.abort();
    await expect(slow.promise).rejects.toThrow("aborted");
    await execute(toy, "activity_delay_ms = 50");
    expect((await call(toy, "/_torpor/activity")).status).toBe(200);
  });

  test("tells its activity: what variables say, and its last use but for the host's", async () => {
    expect((await call(toy, "/_torpor/activity")).body).toMatchObject({
      active_requests: 0,
      active_executions: 0,
      open_streams: 0,
    });
    await execute(toy, "active_executions = 3");
    expect((await call(toy, "/_torpor/activity")).body).toMatchObject({ active_executions: 3 });
    await execute(toy, "active_executions = many");
    expect((await call(toy, "/_torpor/activity")).body).toMatchObject({ active_executions: 0 });
    const idleMs = async () =>
      Number((await call(toy, "/_torpor/activity")).body["last_activity_ms_ago"]);
    const usedAtMs = performance.now();
    await call(toy, "/health");
    await sleep(200);
    const idle = await idleMs();
    expect(idle).toBeGreaterThan(190);
    expect(idle).toBeLessThanOrEqual(Math.ceil(performance.now() - usedAtMs));
  });

  test("tells its ports when they change", async () => {
    const ports = (after?: string) =>
      watched(call(toy, `/_torpor/ports${after === undefined ? "" : `?after=${after}`}`));
    expect((await ports().promise).body).toEqual({ ports: [], etag: "none" });
    for (const [after, code, expected] of [
      ["none", "port_8080 = 45678", { ports: [8080], etag: "8080" }],
      ["8080", "port_300 = 45679", { ports: [300, 8080], etag: "300,8080" }],
      ["300,8080", "port_8080 = 0", { ports: [300], etag: "300" }],
      ["300", "port_300 = 99999", { ports: [], etag: "none" }],
    ] as const) {
      const waiting = ports(after);
      await execute(toy, "other = 1");
      await sleep(SILENCE_MS);
      expect(waiting.isSettled(), after).toBe(false);
      await execute(toy, code);
      expect((await waiting.promise).body).toEqual(expected);
    }
    expect((await ports("8080").promise).body).toEqual({ ports: [], etag: "none" });
  });

  test("is told to shut down: it answers, then it powers off", async () => {
    expect(await call(toy, "/_torpor/shutdown", {})).toEqual({ status: 200, body: {} });
    expect(await toy.exitCode).toBe(0);
  });

  describe("speaks HTTP/1.1", () => {
    test("on connections that are kept", async () => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      try {
        await send(toy, { agent, path: "/health" });
        for (let at = 0; at < 20; at += 1) {
          const body = JSON.stringify({ code: `x = ${at}` });
          const headers = { "content-length": body.length };
          const posted = await send(toy, { agent, path: "/execute", method: "POST", headers }, [
            body,
          ]);
          expect(posted).toMatchObject({ status: 200, isReused: true });
        }
      } finally {
        agent.destroy();
      }
      expect(await send(toy, { agent: false, path: "/health", method: "HEAD" })).toMatchObject({
        status: 200,
        text: "",
      });
    });

    test("with bodies in chunks, in pieces, and large", async () => {
      const parts = ['{"path":"/workspace/note",', '"content":"', "x".repeat(100_000), '"}'];
      const options = { path: "/files/write", method: "POST", agent: false } as const;
      expect(await send(toy, options, parts)).toMatchObject({ status: 200 });
      expect((await call(toy, "/files/read?path=/workspace/note")).body["content"]).toBe(
        "x".repeat(100_000),
      );
      const socket = await open(toy);
      for (const piece of executing("x = 42", "Connection: close").match(/[^]{1,30}/g) ?? []) {
        socket.write(piece);
        await sleep(2);
      }
      expect(await text(socket)).toContain('"success"');
      socket.destroy();
      expect(await execute(toy, "print(x)")).toMatchObject({ stdout: "42\n" });
    });

    test("of several requests at once on one connection, one after the other", async () => {
      const socket = await open(toy);
      socket.write(executing("x = 42") + executing("print(x)", "Connection: close"));
      const answers = await text(socket);
      expect(answers.match(/HTTP\/1\.1 200 OK/g)).toHaveLength(2);
      expect(answers).toMatch(/"42\\n"/);
      socket.destroy();
    });

    test("and ends a connection that brings something else; it goes on", async () => {
      for (const nonsense of [
        "nonsense\r\n\r\n",
        "POST /execute HTTP/1.1\r\nhost: guest\r\ncontent-length: 4\r\n\r\n{x=4",
      ]) {
        const socket = await open(toy);
        socket.write(nonsense);
        expect(await text(socket)).not.toContain("200 OK");
        socket.destroy();
      }
      expect((await call(toy, "/health")).status).toBe(200);
    });
  });

  describe("its port 3000 leads through a tunnel to a program that", () => {
    let app: Server;
    let connected: Socket[];
    beforeEach(async () => {
      connected = [];
      app = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
        socket.on("error", () => socket.destroy());
        connected.push(socket);
      });
      await once(app.listen(0, "127.0.0.1"), "listening");
      await execute(toy, `port_3000 = ${(app.address() as AddressInfo).port}`);
    });
    afterEach(() => {
      for (const socket of connected) socket.destroy();
      app.close();
    });

    /** Both ends of a new tunnel; the bytes after the heads are still unread. */
    async function tunnel(first = ""): Promise<[client: Socket, program: Socket]> {
      const client = await open(toy);
      client.write(TUNNEL + first);
      const [head] = (await once(client, "data")) as [Buffer];
      expect(head.toString()).toBe(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: torpor-tunnel\r\n\r\n",
      );
      client.pause();
      return [client, await until("the connection", () => connected.shift())];
    }

    test("gets all that is sent, and answers when the client has ended", async () => {
      const [client, program] = await tunnel("first, ");
      client.end("second");
      expect(await text(program)).toBe("first, second");
      program.end("answer");
      expect(await text(client)).toBe("answer");
    });

    test("ends first", async () => {
      const [client, program] = await tunnel();
      program.end("bye");
      expect(await text(client)).toBe("bye");
      client.destroy();
      expect(await text(program)).toBe("");
    });

    test("breaks off", async () => {
      const [client, program] = await tunnel();
      program.resetAndDestroy();
      expect(await text(client)).toBe("");
    });

    test("sees that the client breaks off", async () => {
      const [client, program] = await tunnel();
      client.resetAndDestroy();
      program.resume();
      await once(program, "end");
    });

    test.each(["reads late", "is read late"])(
      "%s: nothing is kept in between, and nothing is lost",
      async (who) => {
        const ends = await tunnel();
        const [from, to] = who === "reads late" ? ends : ends.toReversed();
        if (from === undefined || to === undefined) throw new Error("a tunnel has two ends");
        const content = randomBytes(LARGE_BYTES);
        from.end(content);
        let seen = -1;
        await until("it is stuck", async () => {
          const before = seen;
          seen = from.writableLength;
          await sleep(SILENCE_MS);
          return seen > 0 && seen === before;
        });
        expect((await call(toy, "/health")).status).toBe(200);
        const digest = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
        expect(digest(await buffer(to))).toBe(digest(content));
      },
    );

    test("is not there", async () => {
      app.close();
      const socket = await open(toy);
      socket.write(TUNNEL);
      expect(await text(socket)).toContain("101 Switching");
      await execute(toy, "port_3000 = 0");
      const refused = await open(toy);
      refused.write(TUNNEL);
      expect(await text(refused)).toMatch(/^HTTP\/1\.1 404 [^]*"PORT_NOT_OPEN"/);
    });
  });
});

describe("the process of a simulated VM", () => {
  test("answers its control socket, and whoever asks the process", async () => {
    await using vmm = await startProcess();
    expect([await vmm.control("status"), await simulatedVcpusRun(vmm.pid)]).toEqual([
      "paused",
      false,
    ]);
    await vmm.run();
    expect([await vmm.control("status"), await simulatedVcpusRun(vmm.pid)]).toEqual([
      "running",
      true,
    ]);
    expect(await vmm.control("nonsense")).toBe("unknown");
    for (const image of ["", "%", Buffer.from("{x").toString("base64")])
      expect(await vmm.control(`load ${image}`)).toBe("");
    expect(await vmm.control("status")).toBe("running");
  });

  test("costs next to no memory, also after it was used", async () => {
    await using vmm = await startProcess();
    await vmm.run();
    expect(residentBytes(vmm.pid)).toBeLessThan(MAX_RESIDENT_BYTES);
    for (let at = 0; at < 200; at += 1) await execute(vmm, `x${at} = ${at}`);
    await Promise.all(
      Array.from({ length: 50 }, () =>
        call(vmm, "/files/write", { path: "/workspace/note", content: "x".repeat(1_000) }),
      ),
    );
    expect(residentBytes(vmm.pid)).toBeLessThan(MAX_RESIDENT_BYTES);
  });

  test("ends at once when it is told by a signal", async () => {
    await using vmm = await startProcess();
    expect(await vmm.end("SIGTERM")).toBe("SIGTERM");
  });

  test("needs a Python: the usual one, or that of PATH, or an error that says so", async () => {
    await using dir = await tempDir();
    const [missing, bin] = [join(dir.path, "nowhere"), join(dir.path, "bin")];
    await mkdir(bin);
    await writeFile(join(bin, "python3"), "");
    await expect(findPython(missing, `:${missing}:${bin}`)).rejects.toThrow(
      "apt-get install python3",
    );
    await chmod(join(bin, "python3"), 0o755);
    expect(await findPython(missing, `:${missing}:${bin}`)).toBe(join(bin, "python3"));
    expect(await findPython(join(bin, "python3"), "")).toBe(join(bin, "python3"));
  });
});
