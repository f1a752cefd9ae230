/**
 * Previews: any port of a guest, by HTTP and WebSocket, on loopback addresses and below a domain.
 * Simulated hosts; a server of the test stands in for a program that listens in the guest.
 */
import { execFile } from "node:child_process";
import { once } from "node:events";
import { copyFile, rename } from "node:fs/promises";
import {
  createServer,
  type IncomingMessage,
  request as httpRequest,
  type RequestOptions,
} from "node:http";
import { request as httpsRequest } from "node:https";
import { type AddressInfo, createConnection } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { connect as connectTls } from "node:tls";
import { promisify } from "node:util";
import { Sandbox } from "@hopx-ai/sdk";
import { claimPort } from "@torpor/service";
import {
  runCode,
  type SandboxResource,
  startTestFleet,
  tempDir,
  type TestFleet,
  until,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WebSocket, WebSocketServer } from "ws";

type Body = Record<string, unknown>;
const run = promisify(execFile);

const KIB = 1024;
/**
 * The user's server. It returns each request as JSON, echoes frames, and keeps a response to /slow
 * open until the event `go on`.
 */
const app = createServer({ maxHeaderSize: 256 * KIB }, (incoming, response) => {
  const answerHeader = /^\/header\/(\d+)$/.exec(incoming.url ?? "")?.[1];
  if (answerHeader !== undefined)
    response.setHeader("x-long", "y".repeat(Number(answerHeader) * KIB));
  if (incoming.url === "/moved") {
    const location = `http://${incoming.headers.host ?? ""}/there`;
    return void response.writeHead(302, { location }).end();
  }
  if (incoming.url === "/slow") {
    response.write("first ");
    return void app.once("go on", () => response.end("second"));
  }
  void text(incoming).then((body) =>
    response.end(JSON.stringify({ url: incoming.url, headers: incoming.headers, body })),
  );
});
const sockets = new WebSocketServer({ server: app });
sockets.on("connection", (socket) =>
  socket.on("message", (data: Buffer) => socket.send(`echo ${data.toString()}`)),
);

beforeAll(async () => {
  await once(app.listen(0, "127.0.0.1"), "listening");
});
afterAll(() => {
  sockets.close();
  app.closeAllConnections();
  app.close();
});

/** Sends one request; the connection may go to another address than that of the URL. */
async function send(
  url: string,
  options: RequestOptions & { body?: string; rejectUnauthorized?: boolean } = {},
) {
  const { body, ...rest } = options;
  const request = (url.startsWith("https") ? httpsRequest : httpRequest)(url, {
    agent: false,
    timeout: 20_000,
    ...rest,
  });
  request.end(body);
  const [answer] = (await once(request, "response")) as [IncomingMessage];
  const content = await text(answer);
  return {
    status: answer.statusCode,
    headers: answer.headers,
    body: (content.startsWith("{") ? JSON.parse(content) : { content }) as Body,
  };
}

async function echoed(socket: WebSocket): Promise<string> {
  await once(socket, "open");
  socket.send("hi");
  const [data] = (await once(socket, "message")) as [Buffer];
  socket.close();
  return data.toString();
}

describe("on loopback addresses", () => {
  let fleet: TestFleet;
  let port: number;
  beforeAll(async () => {
    fleet = await startTestFleet({ hosts: 1, schedulers: 1, gateways: 2 });
    ({ port } = await claimPort());
  });
  afterAll(async () => {
    await fleet[Symbol.asyncDispose]();
  });

  const listenInside = (sandbox: SandboxResource, guestPort: number, isOpen = true) =>
    runCode(sandbox, `port_${guestPort} = ${isOpen ? (app.address() as AddressInfo).port : 0}`);
  const makeKey = () => fleet.client.keys.create({ name: "a user", scopes: ["read", "exec"] });
  const urlOf = (sandbox: SandboxResource) =>
    `http://${new URL(sandbox.public_host).hostname}:${port}`;
  const isServed = async (sandbox: SandboxResource) => {
    const socket = createConnection({ host: new URL(sandbox.public_host).hostname, port });
    return await once(socket, "connect")
      .then(
        () => true,
        () => false,
      )
      .finally(() => socket.destroy());
  };

  test("a port is served while something listens on it, by HTTP and WebSocket, both streamed; the application gets the client's own credentials", async () => {
    const sandbox = await fleet.createSandbox();
    expect(await isServed(sandbox)).toBe(false);
    await listenInside(sandbox, port);
    await until("the port is served", () => isServed(sandbox));

    const headers = {
      authorization: "Bearer the app's own",
      "x-api-key": "the app's own",
      "x-torpor-port": "7777",
    };
    const answer = await send(`${urlOf(sandbox)}/a/b?c=d`, {
      method: "POST",
      headers,
      body: "hello",
    });
    expect(answer).toMatchObject({ status: 200, body: { url: "/a/b?c=d", body: "hello" } });
    expect(answer.body["headers"]).toMatchObject({
      authorization: "Bearer the app's own",
      "x-api-key": "the app's own",
      host: new URL(urlOf(sandbox)).host,
      "x-forwarded-proto": "http",
      "x-forwarded-for": "127.0.0.1",
    });
    expect(JSON.stringify(answer.body)).not.toContain("x-torpor");
    expect(answer.headers).not.toHaveProperty("x-ratelimit-limit");

    const slow = httpRequest(`${urlOf(sandbox)}/slow`, { agent: false }).end();
    const [streamed] = (await once(slow, "response")) as [IncomingMessage];
    const [first] = (await once(streamed, "data")) as [Buffer];
    expect(first.toString()).toBe("first ");
    app.emit("go on");
    expect(await text(streamed)).toBe("second");

    expect(await echoed(new WebSocket(urlOf(sandbox).replace("http", "ws")))).toBe("echo hi");

    await listenInside(sandbox, port, false);
    await until("the port is closed", async () => !(await isServed(sandbox)));
  });

  test("headers up to 64 KiB pass both ways; what is larger, or no HTTP, is told with JSON and a request id", async () => {
    const sandbox = await fleet.createSandbox();
    await listenInside(sandbox, port);
    await until("the port is served", () => isServed(sandbox));
    const url = urlOf(sandbox);
    const long = (kib: number) => ({ headers: { "x-long": "y".repeat(kib * KIB) } });
    const answer = await send(url, long(60));
    expect(answer.status).toBe(200);
    expect((answer.body["headers"] as Body)["x-long"]).toHaveLength(60 * KIB);
    const maxHeaderSize = 256 * KIB;
    const returned = await send(`${url}/header/60`, { maxHeaderSize });
    expect(returned.headers["x-long"]).toHaveLength(60 * KIB);
    expect(await send(`${url}/header/70`, { maxHeaderSize })).toMatchObject({
      status: 409,
      body: {
        code: "ANSWER_HEADERS_TOO_LARGE",
        message: expect.stringMatching(/larger than 64 KiB/),
      },
    });
    const api = `${fleet.url}/v1/sandboxes`;
    for (const where of [url, sandbox.public_host, api]) {
      expect(await send(where, long(70)), where).toMatchObject({
        status: 431,
        headers: { "x-request-id": expect.stringMatching(/^req_/) },
        body: { code: "HEADERS_TOO_LARGE", request_id: expect.stringMatching(/^req_/) },
      });
      const { hostname, port: at } = new URL(where);
      const socket = createConnection({ host: hostname, port: Number(at) });
      socket.end("NO HTTP AT ALL\r\n\r\n");
      expect(await text(socket), where).toMatch(
        /^HTTP\/1.1 400 [^]*x-request-id: req_[^]*"code":"INVALID_REQUEST"/,
      );
    }
  });

  test("a host whose address is none costs its own sandboxes alone", async () => {
    const [mine, other] = [await fleet.createSandbox(), await fleet.createSandbox()];
    const sql = postgres(fleet.fleet.state.databaseUrl, { max: 1, onnotice: () => {} });
    const { id } = other;
    const [row] = await sql`SELECT host_id FROM sandboxes WHERE id = ${id}`;
    try {
      // The previous version accepted such a registration; this version checks the address.
      await sql`INSERT INTO hosts SELECT (jsonb_populate_record(h, ${sql.json({
        id: "odd",
        data_plane_url: "not a url",
        lease_expires_at: "infinity",
      })})).* FROM hosts h WHERE h.id = ${row?.["host_id"]}`;
      await sql`UPDATE sandboxes SET host_id = 'odd' WHERE id = ${id}`;
      const refused = await send(new URL("/execute", other.public_host).href, {
        method: "POST",
        headers: { authorization: `Bearer ${other.auth_token}` },
      });
      expect(refused).toMatchObject({ status: 503, body: { code: "SERVICE_UNAVAILABLE" } });
      await listenInside(mine, port);
      await until("the port of the other is served", () => isServed(mine));
    } finally {
      await sql`UPDATE sandboxes SET host_id = ${row?.["host_id"]} WHERE id = ${id}`;
      await sql`DELETE FROM hosts WHERE id = 'odd'`;
      await sql.end();
    }
  });

  test("preview_access: with `token` nobody passes without one, and the application does not see it", async () => {
    const sandbox = await fleet.createSandbox({ preview_access: "token" });
    await listenInside(sandbox, port);
    await until("the port is served", () => isServed(sandbox));
    expect(await send(urlOf(sandbox))).toMatchObject({
      status: 401,
      body: { code: "AUTHENTICATION_REQUIRED" },
    });
    expect(
      await send(urlOf(sandbox), { headers: { authorization: "Bearer guess" } }),
    ).toMatchObject({ status: 401 });
    await expect(once(new WebSocket(urlOf(sandbox).replace("http", "ws")), "open")).rejects.toThrow(
      /401/,
    );
    const passed = await send(urlOf(sandbox), {
      headers: { authorization: `Bearer ${sandbox.auth_token}` },
    });
    expect(passed.status).toBe(200);
    expect(JSON.stringify(passed.body)).not.toContain("authorization");
    await fleet.client.sandboxes.patch(sandbox.id, { preview_access: "public" });
    expect((await send(urlOf(sandbox))).status).toBe(200);
    // The agent's port is not a preview.
    expect((await send(`${sandbox.public_host}/execute`, { method: "POST" })).status).toBe(401);
  });

  test("preview_access: a browser passes by a link, whose cookie is for this preview and this sandbox's pages alone", async () => {
    const sandbox = await fleet.createSandbox({ preview_access: "token" });
    await listenInside(sandbox, port);
    await until("the port is served", () => isServed(sandbox));
    const { sandboxes } = fleet.client;
    const links = `/v1/sandboxes/${sandbox.id}/preview-links`;
    const made = await fleet.call("POST", links, { body: { port, path: "/a?b=c" } });
    expect(made).toMatchObject({
      status: 201,
      body: { object: "preview_link", port, sandbox_id: sandbox.id },
    });
    const url = String(made.body["url"]);
    expect(url).toMatch(`${urlOf(sandbox)}/a?b=c&torpor_preview=`);
    expect(await send(`${urlOf(sandbox)}/a?torpor_preview=guess`)).toMatchObject({
      status: 401,
      body: { code: "INVALID_TOKEN" },
    });
    const opened = await send(url);
    expect(opened).toMatchObject({
      status: 303,
      headers: {
        location: "/a?b=c",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
      },
    });
    const [setCookie = ""] = opened.headers["set-cookie"] ?? [];
    expect(setCookie).toMatch(/; Max-Age=43200; Path=\/; HttpOnly; SameSite=Lax$/);

    const cookie = `mine=1; ${setCookie.split(";", 1)[0] ?? ""}`;
    const authorization = "Bearer the app's own";
    const passed = await send(`${urlOf(sandbox)}/a?b=c`, { headers: { cookie, authorization } });
    expect(passed).toMatchObject({
      status: 200,
      body: { url: "/a?b=c", headers: { cookie: "mine=1", authorization } },
    });
    expect(JSON.stringify(passed.body)).not.toContain("torpor");
    const ws = urlOf(sandbox).replace("http", "ws");
    expect(await echoed(new WebSocket(ws, { headers: { cookie } }))).toBe("echo hi");
    // The cookie is not accepted from another site's page, nor by the agent.
    const strange = { cookie, origin: "http://127.64.0.9:3000" };
    expect(await send(urlOf(sandbox), { headers: strange })).toMatchObject({ status: 401 });
    await expect(once(new WebSocket(ws, { headers: strange }), "open")).rejects.toThrow(/401/);
    const agent = `${sandbox.public_host}/execute`;
    expect(await send(agent, { method: "POST", headers: { cookie } })).toMatchObject({
      status: 401,
    });
    await expect(sandboxes.previewLink(sandbox.id, { port: 7777 })).rejects.toMatchObject({
      code: "INVALID_REQUEST",
      message: expect.stringMatching(/^port is the sandbox's agent/),
    });
    await fleet.client.sandboxes.delete(sandbox.id);
  });

  test("preview_access: a page's preflights reach the application, and its WebSockets bring the token as a sub-protocol", async () => {
    const sandbox = await fleet.createSandbox({ preview_access: "token", auto_resume: true });
    await listenInside(sandbox, port);
    await until("the port is served", () => isServed(sandbox));
    const preflight = { origin: "https://page.example", "access-control-request-method": "POST" };
    const ask = (headers: Record<string, string>) =>
      send(`${urlOf(sandbox)}/p`, { method: "OPTIONS", headers });
    expect(await ask(preflight)).toMatchObject({
      status: 200,
      body: { url: "/p", headers: preflight },
    });
    expect((await ask({ origin: preflight.origin })).status).toBe(401);
    expect((await ask({ ...preflight, "content-length": "1" })).status).toBe(401);
    const ws = urlOf(sandbox).replace("http", "ws");
    const token = `torpor.token.${sandbox.auth_token}`;
    const plain = new WebSocket(ws, [token]);
    expect(await echoed(plain)).toBe("echo hi");
    expect(plain.protocol).toBe(token);
    const named = new WebSocket(ws, [token, "chat"]);
    expect(await echoed(named)).toBe("echo hi");
    expect(named.protocol).toBe("chat");
    await expect(once(new WebSocket(ws, ["torpor.token.guess"]), "open")).rejects.toThrow(/401/);
    await fleet.client.sandboxes.pause(sandbox.id);
    // A preflight does not identify its sender, so it wakes no sandbox.
    expect(await ask(preflight)).toMatchObject({ status: 409, body: { code: "CONFLICT" } });
    await fleet.client.sandboxes.delete(sandbox.id);
  });

  test("what was opened with a token, cookie or key ends within seconds when that is revoked; what others opened goes on", async () => {
    const sandbox = await fleet.createSandbox({ preview_access: "token" });
    const [mine, theirs] = [await makeKey(), await makeKey()];
    await listenInside(sandbox, port);
    await until("the port is served", () => isServed(sandbox));
    const refreshed = async (apiKey: string) =>
      (await fleet.clientOf(apiKey).sandboxes.refreshToken(sandbox.id)).auth_token;
    const cookieBy = async (apiKey: string) => {
      const { url } = await fleet.clientOf(apiKey).sandboxes.previewLink(sandbox.id, { port });
      const opened = await send(url);
      return opened.headers["set-cookie"]?.[0]?.split(";", 1)[0] ?? "";
    };
    const ended = new Set<string>();
    const openSocket = async (name: string, headers: Record<string, string>) => {
      const socket = new WebSocket(urlOf(sandbox).replace("http", "ws"), { headers });
      socket.once("close", () => ended.add(name));
      socket.on("error", () => {});
      await once(socket, "open");
      return socket;
    };
    const openStream = async (name: string, headers: Record<string, string>) => {
      const [answer] = (await once(
        httpRequest(`${urlOf(sandbox)}/slow`, { agent: false, headers }).end(),
        "response",
      )) as [IncomingMessage];
      answer.once("close", () => ended.add(name)).on("error", () => {});
      answer.resume();
    };
    const byMine = await openSocket("got with my key", {
      authorization: `Bearer ${await refreshed(mine.secret)}`,
    });
    const byTheirs = await openSocket("got with theirs", {
      authorization: `Bearer ${await refreshed(theirs.secret)}`,
    });
    await openStream("my key itself", { "x-api-key": mine.secret });
    await openStream("their key itself", { "x-api-key": theirs.secret });
    const byMyCookie = await openSocket("a browser with my link", {
      cookie: await cookieBy(mine.secret),
    });
    const byCookie = await openSocket("a browser", { cookie: await cookieBy(theirs.secret) });
    const hasEnded = (...names: string[]) =>
      until(`${names.join(", ")} ended`, () => names.every((name) => ended.has(name)));

    await fleet.client.keys.revoke(mine.id);
    await hasEnded("got with my key", "my key itself", "a browser with my link");
    expect(ended.size, [...ended].join(", ")).toBe(3);
    byTheirs.send("hi");
    expect(String((await once(byTheirs, "message"))[0])).toBe("echo hi");
    await fleet.client.sandboxes.revokeTokens(sandbox.id);
    await hasEnded("got with theirs", "a browser");
    expect(ended.has("their key itself")).toBe(false);
    app.emit("go on");
    await hasEnded("their key itself");
    for (const socket of [byMine, byTheirs, byMyCookie, byCookie]) socket.terminate();
    await fleet.client.sandboxes.delete(sandbox.id);
  });

  test("preview_host: the application is called localhost where the sandbox says so, and what it redirects to is reached", async () => {
    const sandbox = await fleet.createSandbox({ preview_host: "localhost" });
    await listenInside(sandbox, port);
    await until("the port is served", () => isServed(sandbox));
    const local = { host: `localhost:${port}`, origin: `http://localhost:${port}` };
    const answer = await send(urlOf(sandbox), {
      headers: { origin: urlOf(sandbox), "x-forwarded-host": "evil" },
    });
    expect(answer).toMatchObject({ status: 200, body: { headers: local } });
    expect(answer.body["headers"]).not.toHaveProperty("x-forwarded-proto");
    expect((await send(`${urlOf(sandbox)}/moved`)).headers.location).toBe(
      `${urlOf(sandbox)}/there`,
    );
    await fleet.client.sandboxes.patch(sandbox.id, { preview_host: "original" });
    expect((await send(urlOf(sandbox))).body["headers"]).toMatchObject({
      host: new URL(urlOf(sandbox)).host,
    });
    await fleet.client.sandboxes.delete(sandbox.id);
  });

  test("LP1: previews end with the run, unless traffic may wake the sandbox: then they stay, and wake it", async () => {
    const [plain, waking] = [
      await fleet.createSandbox(),
      await fleet.createSandbox({ auto_resume: true }),
    ];
    for (const sandbox of [plain, waking]) {
      await listenInside(sandbox, port);
      await until("the port is served", () => isServed(sandbox));
      await fleet.client.sandboxes.pause(sandbox.id);
    }
    await until("the port is closed", async () => !(await isServed(plain)));
    expect(
      await send(`${urlOf(waking)}/wake`, { method: "POST", body: "still here" }),
    ).toMatchObject({
      status: 200,
      body: { body: "still here" },
    });
    expect(await fleet.client.sandboxes.get(waking.id)).toMatchObject({ status: "running" });
    await fleet.client.sandboxes.pause(waking.id);
    const probe = (headers: Record<string, string> = {}) =>
      send(`${waking.public_host}/health`, { headers });
    for (const headers of [{}, { authorization: "Bearer wrong" }, { "x-api-key": "wrong" }])
      expect(await probe(headers)).toMatchObject({ status: 409, body: { code: "CONFLICT" } });
    expect(await fleet.client.sandboxes.get(waking.id)).toMatchObject({ status: "paused" });
    const authorization = `Bearer ${waking.auth_token}`;
    expect((await probe({ authorization })).status).toBe(200);
    await fleet.client.sandboxes.pause(waking.id);
    expect(await echoed(new WebSocket(urlOf(waking).replace("http", "ws")))).toBe("echo hi");
    await fleet.client.sandboxes.resume(plain.id);
    await until("the port is served again", () => isServed(plain));
    await fleet.client.sandboxes.stop(waking.id);
    await until("the port is closed", async () => !(await isServed(waking)));
  });
});

describe("below a domain", () => {
  let fleet: TestFleet;
  let domainPort: number;
  let tls: { certFile: string; keyFile: string };
  const disposer = new AsyncDisposableStack();
  beforeAll(async () => {
    const dir = disposer.use(await tempDir());
    tls = await makeCertificate(dir.path, "first");
    ({ port: domainPort } = await claimPort());
    fleet = await startTestFleet({
      hosts: 1,
      schedulers: 1,
      gatewayEnv: {
        PUBLIC_DOMAIN: "hopx.dev",
        EDGE_DOMAIN_PORT: String(domainPort),
        EDGE_PUBLIC_PORT: "443",
        EDGE_TLS_CERT_FILE: tls.certFile,
        EDGE_TLS_KEY_FILE: tls.keyFile,
      },
    });
    disposer.use(fleet);
  });
  afterAll(async () => {
    await disposer.disposeAsync();
  });

  /** Sends a request like a client whose resolver knows the name. */
  const sendTo = (url: string, options: Parameters<typeof send>[1] = {}) =>
    send(`https://127.0.0.1:${domainPort}${new URL(url).pathname}${new URL(url).search}`, {
      ...options,
      rejectUnauthorized: false,
      headers: { ...(options.headers as Record<string, string>), host: new URL(url).host },
    });

  test("the SDK's getPreviewUrl() takes the public host, and what it makes of it leads to the port", async () => {
    const sandbox = await Sandbox.create({
      template: "code-interpreter",
      apiKey: fleet.apiKey,
      baseURL: fleet.url,
    });
    const id = sandbox.sandboxId;
    const { publicHost } = await sandbox.getInfo();
    expect(publicHost).toBe(`https://7777-${id}.local.vms.hopx.dev`);
    const preview = await sandbox.getPreviewUrl(3000);
    expect(preview).toBe(`https://3000-${id}.local.vms.hopx.dev/`);
    const token = await sandbox.getToken();
    const authorization = { authorization: `Bearer ${token}`, "content-type": "application/json" };
    const code = `port_3000 = ${(app.address() as AddressInfo).port}`;

    expect(await sendTo(preview)).toMatchObject({ status: 404, body: { code: "PORT_NOT_OPEN" } });
    const executed = await sendTo(`${publicHost}/execute`, {
      method: "POST",
      headers: authorization,
      body: JSON.stringify({ code }),
    });
    expect(executed, JSON.stringify(executed.body)).toMatchObject({
      status: 200,
      body: { success: true },
    });
    const answer = await sendTo(`${preview}x`);
    expect(answer).toMatchObject({ status: 200, body: { url: "/x" } });
    expect(answer.body["headers"]).toMatchObject({
      host: `3000-${id}.local.vms.hopx.dev`,
      "x-forwarded-proto": "https",
    });

    const socket = new WebSocket(`wss://127.0.0.1:${domainPort}/`, {
      rejectUnauthorized: false,
      headers: { host: new URL(preview).host },
    });
    expect(await echoed(socket)).toBe("echo hi");
    expect((await sendTo(`${publicHost}/execute`, { method: "POST" })).status).toBe(401);
    const link = await fleet.client.sandboxes.previewLink(id, { port: 3000 });
    expect(link.url).toMatch(`${preview}?torpor_preview=`);
    const [cookie] = (await sendTo(link.url)).headers["set-cookie"] ?? [];
    expect(cookie).toMatch(
      /^__Host-torpor-preview-3000=[^;]+; Max-Age=43200; Path=\/; HttpOnly; SameSite=Lax; Secure$/,
    );
  });

  test.each([
    ["https://3000-1795490791hbb922t4.local.vms.hopx.dev/", "SANDBOX_NOT_FOUND", /not found/],
    ["https://www.example.com/", "RESOURCE_NOT_FOUND", /\{port\}-\{sandbox id\}/],
    ["https://99999-1795490791hbb922t4.local.vms.hopx.dev/", "RESOURCE_NOT_FOUND", /form/],
  ])("%s is a clear 404", async (url, code, says) => {
    const answer = await sendTo(url);
    expect(answer).toMatchObject({ status: 404, body: { code } });
    expect(answer.body["message"]).toMatch(says);
  });

  test("a sandbox is served under its own region alone", async () => {
    const sandbox = await fleet.createSandbox();
    const host = `7777-${sandbox.id}.elsewhere.vms.hopx.dev`;
    expect(await sendTo(`https://${host}/health`)).toMatchObject({ status: 404 });
    expect(await sendTo(`${sandbox.public_host}/health`)).toMatchObject({ status: 200 });
  });

  test("a renewed certificate is taken up without a restart", async () => {
    const nameNow = async () => {
      const socket = connectTls({ host: "127.0.0.1", port: domainPort, rejectUnauthorized: false });
      await once(socket, "secureConnect");
      const { CN } = socket.getPeerCertificate().subject;
      socket.destroy();
      return CN;
    };
    expect(await nameNow()).toBe("first");
    await using dir = await tempDir();
    const renewed = await makeCertificate(dir.path, "second");
    for (const name of ["certFile", "keyFile"] as const) {
      await copyFile(renewed[name], `${tls[name]}.new`);
      await rename(`${tls[name]}.new`, tls[name]);
    }
    await until(
      "the new certificate is presented",
      async () => (await nameNow()) === "second",
      30_000,
    );
  });
});

async function makeCertificate(
  dir: string,
  name: string,
): Promise<{ certFile: string; keyFile: string }> {
  const [certFile, keyFile] = [join(dir, "cert.pem"), join(dir, "key.pem")];
  const subject = ["-subj", `/CN=${name}`, "-days", "2"];
  await run("openssl", [
    "req",
    "-x509",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
    ...subject,
    "-out",
    certFile,
    "-keyout",
    keyFile,
  ]);
  return { certFile, keyFile };
}
