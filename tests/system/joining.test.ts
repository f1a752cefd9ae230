/**
 * A host joins a running fleet with a token, runs sandboxes, and is revoked; the rest of the fleet
 * is not disturbed.
 */
import { execFile, spawn } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { parseEnv } from "node:util";
import { createNatsKey } from "@torpor/bus";
import { authorityFiles } from "@torpor/fleet";
import { Authority, createRequest } from "@torpor/identity/authority";
import { identityIn } from "@torpor/identity";
import { claimPort, claimPorts } from "@torpor/service";
import {
  type Client,
  ROOT,
  type SandboxResource,
  startTestFleet,
  type TestFleet,
  until,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { followAdmissions } from "./support/nats-users.ts";

const HOST = "newcomer";
const LABELS = { place: "new" };
const LIMIT_MS = 60_000;
const DAY_MS = 86_400_000;

let fleet: TestFleet;
let dir: string;
beforeAll(async () => {
  fleet = await startTestFleet({ hosts: 1, schedulers: 1 });
  dir = join(fleet.fleet.dir, HOST);
  await mkdir(dir);
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

type NewToken = Parameters<Client["admissions"]["createToken"]>[0];
async function makeToken(given: NewToken = {}): Promise<string> {
  const { status, body } = await fleet.call("POST", "/v1/host-tokens", { body: given });
  expect(status, JSON.stringify(body)).toBe(201);
  return String(body["secret"]);
}

/** Sends requests that the host's own join program does not send. */
async function askToJoin(token: string, hostId: string, given: object = {}) {
  const { requestPem } = await createRequest();
  const body = {
    token,
    host_id: hostId,
    certificate_request: requestPem,
    nats_public_key: createNatsKey().publicKey,
    ...given,
  };
  return await fleet.call("POST", "/v1/host-admissions", { body, apiKey: null });
}

const program = (...args: string[]) => [
  join(ROOT, "apps/node-agent/src/command.ts"),
  "join",
  "--url",
  fleet.url,
  ...args,
];
const env = { PATH: process.env["PATH"] };
const identity = () => join(dir, "identity");

/** Starts the join program of a host. */
function startJoin(tokenFile: string): { lines: () => string; ended: Promise<number> } {
  const args = program("--token-file", tokenFile, "--host-id", HOST, "--dir", identity());
  const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk: Buffer) => (said += chunk.toString()));
  return { lines: () => said, ended: once(child, "close").then(([code]) => Number(code)) };
}

const isBack = () =>
  fleet.untilHost("it is back", HOST, ({ state }) => state === "ready", LIMIT_MS);
const admissionOf = async (hostId: string) =>
  (await Array.fromAsync(fleet.client.admissions.list())).find((one) => one.host_id === hostId);

describe("who may join", () => {
  test("nobody without a token that is good, and what is wrong with a request is said", async () => {
    expect(await askToJoin("torpor_join_guess", HOST)).toMatchObject({
      status: 401,
      body: { code: "INVALID_TOKEN" },
    });
    const token = await makeToken();
    for (const [field, value] of [
      ["host_id", "No Host"],
      [
        "certificate_request",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
      ],
      ["nats_public_key", `U${"A".repeat(55)}`],
      ["nats_public_key", "x"],
    ] as const) {
      const answer = await askToJoin(token, HOST, { [field]: value });
      expect(answer, field).toMatchObject({
        status: 400,
        body: { message: expect.stringContaining(field) },
      });
    }
    // None of the refused requests used the token up.
    expect((await askToJoin(token, "first-of-all")).status).toBe(201);
    expect(await askToJoin(await makeToken(), "host-1")).toMatchObject({
      status: 409,
      body: { message: expect.stringContaining("hosts token --host host-1") },
    });
  });

  test("tokens, admissions and revocations are an operator's", async () => {
    const { secret: apiKey } = await fleet.client.keys.create({
      name: "tenant",
      scopes: ["read", "lifecycle", "exec"],
    });
    for (const [method, path] of [
      ["POST", "/v1/host-tokens"],
      ["GET", "/v1/host-tokens"],
      ["GET", "/v1/host-admissions"],
      ["DELETE", "/v1/host-admissions/host-1"],
    ] as const)
      expect(
        await fleet.call(method, path, { apiKey, ...(method === "POST" ? { body: {} } : {}) }),
      ).toMatchObject({ status: 403 });
  });

  test("what joined, and what was refused, is in the audit log", async () => {
    const entries = await Array.fromAsync(fleet.client.audit.list());
    const noted = entries.filter(({ path }) => path === "/v1/host-admissions");
    expect(noted).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ status: 201, resource: "first-of-all", requested_by: null }),
        expect.objectContaining({ status: 401, code: "INVALID_TOKEN" }),
      ]),
    );
  });
});

/**
 * Certificate by the fleet's authority for the key of a joined host. The certificate ends so soon
 * that it is renewed at once.
 */
async function certifyBriefly(requestFile: string): Promise<string> {
  const { certFile, keyFile } = authorityFiles(fleet.fleet.dir);
  const [certificatePem, keyPem, requestPem] = await Promise.all(
    [certFile, keyFile, requestFile].map(async (file) => await readFile(file, "utf8")),
  );
  const authority = await Authority.open({
    certificatePem: certificatePem ?? "",
    keyPem: keyPem ?? "",
  });
  const subject = { identity: { role: "host", hostId: HOST } as const, days: 0.01 };
  return (await authority.certify(requestPem ?? "", subject)) ?? "";
}

let sandbox: SandboxResource;

describe("a host", { timeout: 4 * LIMIT_MS }, () => {
  test("joins by its program, gets a certificate of its own, and carries a sandbox", async () => {
    const tokenFile = join(dir, "token");
    await writeFile(tokenFile, await makeToken({ data_plane_host: "127.0.0.1" }));
    const joining = startJoin(tokenFile);
    await until(
      "it was let in",
      () => joining.lines().includes("waiting for the NATS servers"),
      LIMIT_MS,
    );
    await followAdmissions(fleet);
    expect(await joining.ended, joining.lines()).toBe(0);
    const settings = parseEnv(await readFile(join(identity(), "identity.env"), "utf8"));
    const certificate = new X509Certificate(await readFile(settings["TLS_CERT_FILE"] ?? ""));
    expect(identityIn(certificate.subjectAltName)).toEqual({ role: "host", hostId: HOST });
    await startHost(settings);
    sandbox = await fleet.createSandbox({ placement: { labels: LABELS } });
    expect(sandbox, JSON.stringify(sandbox)).toMatchObject({ status: "running", node_id: HOST });
    expect((await fleet.guest(sandbox, "/info")).status).toBe(200);
  });

  test("whose certificate is about to end gets another one by itself, while its sandbox is in use", async () => {
    const certFile = join(identity(), "tls.crt");
    await fleet.fleet.kill(HOST);
    await writeFile(certFile, await certifyBriefly(join(identity(), "tls.csr")));
    const before = new X509Certificate(await readFile(certFile));
    await fleet.fleet.startComponent(HOST);
    const after = async () => new X509Certificate(await readFile(certFile));
    await until(
      "it has another",
      async () => (await after()).serialNumber !== before.serialNumber,
      LIMIT_MS,
    );
    const { validTo } = await after();
    expect(Date.parse(validTo) - Date.parse(before.validTo)).toBeGreaterThan(300 * DAY_MS);
    expect(await admissionOf(HOST)).toMatchObject({
      certificate_expires_at: new Date(validTo).toISOString(),
    });
    await isBack();
    expect((await fleet.guest(sandbox, "/info")).status).toBe(200);
  });

  test("whose address is not the one that it was admitted with does not register", async () => {
    const agent = fleet.fleet.component(HOST);
    await fleet.fleet.kill(HOST);
    const said = async () => await readFile(agent.log, "utf8");
    const before = (await said()).length;
    const { DATA_PLANE_URL: _, ...rest } = agent.env;
    agent.env = { ...rest, DATA_PLANE_URL: "https://127.0.0.2:9401" };
    const starting = fleet.fleet.startComponent(HOST).catch(() => {});
    await until(
      "it is told why",
      async () =>
        (await said()).slice(before).includes("this host was admitted at 127.0.0.1 alone"),
      LIMIT_MS,
    );
    await fleet.fleet.kill(HOST);
    await starting;
    agent.env = rest;
    await fleet.fleet.startComponent(HOST);
    await isBack();
  });

  test("HA3: that is revoked is cut off, and lost; the others go on, and it is let in again with a token of its own", async () => {
    const other = await fleet.createSandbox();
    expect(await fleet.client.admissions.revoke(HOST)).toMatchObject({
      revoked_at: expect.any(String),
      nats_public_keys: [],
    });
    await fleet.untilHost("it is lost", HOST, ({ state }) => state === "lost", LIMIT_MS);
    await followAdmissions(fleet);
    expect((await fleet.client.hosts.get("host-1")).state).toBe("ready");
    await fleet.client.sandboxes.pause(other.id);
    // A revoked host joins only with a token that names the host, whatever keys it has.
    const tokenFile = join(dir, "token");
    await writeFile(tokenFile, await makeToken());
    const refused = startJoin(tokenFile);
    expect(await refused.ended).toBe(1);
    expect(refused.lines()).toContain(`hosts token --host ${HOST}`);
    await writeFile(tokenFile, await makeToken({ host_id: HOST }));
    const joining = startJoin(tokenFile);
    await until(
      "it was let in",
      () => joining.lines().includes("waiting for the NATS servers"),
      LIMIT_MS,
    );
    await followAdmissions(fleet);
    expect(await joining.ended, joining.lines()).toBe(0);
    expect(await admissionOf(HOST)).toMatchObject({
      revoked_at: null,
      nats_public_keys: [expect.any(String)],
    });
    await fleet.fleet.kill(HOST);
    await fleet.fleet.startComponent(HOST);
    await isBack();
  });
});

test(
  "IF1: a join that the NATS servers do not answer ends, says so, and is gone on with by the next",
  { timeout: LIMIT_MS },
  async () => {
    const { port } = await claimPort();
    const answers: object[] = [];
    const api = createServer((incoming, response) => {
      void text(incoming).then((body) => {
        answers.push(JSON.parse(body) as object);
        const given = {
          host_id: "lonely",
          nats_url: `nats://127.0.0.1:${port}`,
          certificate: null,
          authorities: null,
        };
        response.writeHead(201, { "content-type": "application/json" }).end(JSON.stringify(given));
      });
    });
    await once(api.listen(0, "127.0.0.1"), "listening");
    const tokenFile = join(dir, "lonely-token");
    await writeFile(tokenFile, "torpor_join_x");
    const url = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
    const where = [
      "--token-file",
      tokenFile,
      "--host-id",
      "lonely",
      "--dir",
      join(dir, "lonely"),
      "--wait",
      "2",
    ];
    const args = [join(ROOT, "apps/node-agent/src/command.ts"), "join", "--url", url, ...where];
    for (let times = 1; times <= 2; times += 1) {
      const ran = await new Promise<{ code: unknown; stderr: string }>((resolve) => {
        execFile(process.execPath, args, { env }, (error, _stdout, stderr) =>
          resolve({ code: error?.code, stderr }),
        );
      });
      expect(ran).toMatchObject({
        code: 1,
        stderr: expect.stringContaining("run this again with the same token"),
      });
    }
    // The second join sends the same keys, so the token that was used with them lets the host in.
    expect(answers).toHaveLength(2);
    expect(answers[1]).toEqual(answers[0]);
    api.close();
  },
);

test("a token is not shown to whoever listens on the way", async () => {
  const args = [
    join(ROOT, "apps/node-agent/src/command.ts"),
    "join",
    "--url",
    "http://10.0.0.1",
    "--token-file",
    "/nowhere",
  ];
  const ran = await new Promise<string>((resolve) => {
    execFile(process.execPath, args, { env }, (_error, _stdout, stderr) => resolve(stderr));
  });
  expect(ran).toContain("use https://, or add --allow-http in a private network");
});

/** Starts the agent of the joined host with the settings that the join wrote. */
async function startHost(settings: NodeJS.Dict<string>): Promise<void> {
  const like = fleet.fleet.component("host-1");
  // The fleet looks for virtual machines in this directory when the fleet ends.
  const dataDir = join(fleet.fleet.dir, "hosts", HOST);
  await mkdir(dataDir);
  const { DATA_PLANE_PORT: _p, HEALTH_PORT: _h, NATS_SEED_FILE: _s, ...rest } = like.env;
  const [healthPort, dataPlanePort] = (await claimPorts(2)).map(String);
  const agentEnv = {
    ...rest,
    ...(settings as Record<string, string>),
    DATA_DIR: dataDir,
    HOST_LABELS: "place=new",
    HEALTH_PORT: healthPort ?? "",
    DATA_PLANE_PORT: dataPlanePort ?? "",
  };
  const address = `127.0.0.1:${healthPort}`;
  const log = join(fleet.fleet.dir, "logs", `${HOST}.log`);
  const { process: _process, ...component } = like;
  await fleet.fleet.attach({
    ...component,
    name: HOST,
    env: agentEnv,
    address,
    healthUrl: `http://${address}/health`,
    log,
  });
  await fleet.fleet.waitHealthy(HOST, AbortSignal.timeout(LIMIT_MS));
}
