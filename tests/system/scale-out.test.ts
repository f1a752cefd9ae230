/**
 * More than one of everything: any gateway, scheduler or NATS server may stop, killed or in order,
 * and the others continue. Simulated hosts.
 */
import { readFileSync } from "node:fs";
import { createServer, request as httpRequest, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import {
  insist,
  runCode,
  type SandboxResource,
  startTestFleet,
  type TestFleet,
  until,
} from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

const DRAIN_DELAY_MS = 8_000;
const SHUTDOWN_GRACE_MS = 20_000;
const GATEWAYS = ["gateway-1", "gateway-2"];
const NATS = ["nats-1", "nats-2", "nats-3"];

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet({
    gateways: 2,
    natsServers: 3,
    gatewayEnv: {
      DRAIN_DELAY_MS: String(DRAIN_DELAY_MS),
      SHUTDOWN_GRACE_MS: String(SHUTDOWN_GRACE_MS),
    },
  });
});
afterEach(async () => {
  // A test that failed half-way may have left programs stopped.
  for (const { name } of fleet.fleet.state.components) await fleet.fleet.startComponent(name);
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const create = (key: string) => insist(() => fleet.createSandbox({}, { idempotencyKey: key }));
const execute = (sandbox: SandboxResource, code: string) => insist(() => runCode(sandbox, code));

interface Fresh {
  status: number;
  connection: string | undefined;
  text: string;
}

/** Repeats a request whose connection breaks before the response, as a client does. */
async function insisted(url: string, options: Parameters<typeof fresh>[1] = {}): Promise<Fresh> {
  return await until(`an answer of ${url}`, () => fresh(url, options).catch(() => undefined));
}

/** Sends one request over a connection of its own, which any gateway may take. */
async function fresh(
  url: string,
  options: { headers?: Record<string, string>; method?: string; body?: string } = {},
): Promise<Fresh> {
  const { headers, method = "GET", body } = options;
  return await new Promise((resolve, reject) => {
    const request = httpRequest(url, {
      agent: false,
      method,
      headers: { "x-api-key": fleet.apiKey, connection: "keep-alive", ...headers },
    });
    request.once("error", reject);
    request.once("response", (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => (text += chunk.toString()));
      response.once("error", reject);
      response.once("end", () => {
        request.destroy();
        resolve({
          status: response.statusCode ?? 0,
          connection: response.headers.connection,
          text,
        });
      });
    });
    request.end(body);
  });
}

const logOf = (name: string) => readFileSync(fleet.fleet.component(name).log, "utf8");
const answeredBy = (name: string, requestId: string) =>
  logOf(name).includes(`"requestId":"${requestId}"`);
const healthOf = async (name: string) => await fresh(fleet.fleet.component(name).healthUrl ?? "");

/** A follower is unhealthy while it catches up with a new stream. */
const allWell = () =>
  until("all is well", async () =>
    (await fleet.fleet.health()).every(({ health }) => health.kind === "healthy"),
  );

/** Sends requests until both gateways have answered one. */
async function bothAnswer(tag: string): Promise<void> {
  const ids: string[] = [];
  await until("both gateways answer", async () => {
    const id = `request-${tag}-${ids.length}`;
    ids.push(id);
    expect(
      (await insisted(`${fleet.url}/v1/sandboxes`, { headers: { "x-request-id": id } })).status,
    ).toBe(200);
    return GATEWAYS.every((name) => ids.some((one) => answeredBy(name, one)));
  });
}

test("all of it is healthy, and a cluster has a leader", async () => {
  await allWell();
  const health = await fleet.fleet.health();
  expect(health.map(({ component }) => component.name)).toEqual(
    expect.arrayContaining([...GATEWAYS, ...NATS]),
  );
  expect(NATS).toContain(await metaLeader());
});

test("ED1: two gateways take the connections of one port in turn; kill -9 of one, and the other serves everybody and every sandbox", async () => {
  await bothAnswer("before");
  const sandbox = await create("shared-port");
  await execute(sandbox, "x = 42");
  // The gateway that did not create the sandbox serves it, too.
  await until("both gateways serve the sandbox", async () => {
    const reports = await Promise.all(
      GATEWAYS.map(async (_, at) => await insisted(`${sandbox.public_host}/health?${at}`)),
    );
    return reports.every(({ status }) => status === 200);
  });
  await fleet.fleet.kill("gateway-1");
  for (let at = 0; at < 10; at += 1) {
    const id = `the-other-${at}`;
    expect(
      (await insisted(`${fleet.url}/v1/sandboxes`, { headers: { "x-request-id": id } })).status,
    ).toBe(200);
    // A response is logged a moment after it is sent.
    await until("the other one has answered it", () => answeredBy("gateway-2", id));
    expect((await insisted(`${sandbox.public_host}/health`)).status).toBe(200);
  }
  expect(await execute(sandbox, "print(x)")).toMatchObject({ stdout: "42\n" });
  await fleet.fleet.startComponent("gateway-1");
  await bothAnswer("after");
});

test("GD1, GD2: a gateway that is asked to stop says so first, then answers what is under way, on the API and through the edge, and closes those connections", async () => {
  await using slow = await slowServer();
  const sandbox = await create("drain");
  await execute(sandbox, `port_9000 = ${slow.port}`);
  const preview = `${sandbox.public_host.replace(/:\d+$/, "")}:9000/`;
  await fleet.fleet.kill("gateway-2");
  await until(
    "its preview is served",
    async () => (await fresh(`${preview}quick`).catch(() => undefined))?.status === 200,
  );

  // With both hosts stopped, the create stays under way.
  const hosts = ["host-1", "host-2"];
  for (const host of hosts) fleet.fleet.signal(host, "SIGSTOP");
  const body = JSON.stringify({ template_name: "code-interpreter" });
  const creating = fresh(`${fleet.url}/v1/sandboxes`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  await sleep(300);
  const restarted = fleet.fleet.restart("gateway-1");
  await until("it says that it stops", async () => (await healthOf("gateway-1")).status === 503);
  expect(JSON.parse((await healthOf("gateway-1")).text)).toMatchObject({ status: "draining" });
  // A load balancer that has not noticed yet may still send requests.
  expect((await fresh(`${fleet.url}/v1/sandboxes`)).connection).toBe("close");
  for (const host of hosts) fleet.fleet.signal(host, "SIGCONT");
  const asked = fresh(`${preview}slow`);
  await until("it has arrived", () => slow.waiting() === 1);
  await until(
    "no connection is taken any more",
    async () =>
      await fresh(`${fleet.url}/v1/sandboxes`).then(
        () => false,
        () => true,
      ),
  );
  slow.answer();
  expect(await asked).toMatchObject({ status: 200, connection: "close", text: "slow" });
  const created = await creating;
  expect(created, created.text).toMatchObject({ status: 201, connection: "close" });
  await restarted;
});

test.each(NATS)(
  "S37: kill -9 of %s while sandboxes are created, paused and resumed: all of it is done",
  { tags: ["exhaustive"] },
  async (victim) => {
    await survives(`kill-${victim}`, async () => {
      await fleet.fleet.kill(victim);
    });
    await fleet.fleet.startComponent(victim);
  },
);

test("S37: kill -9 of the server that leads the cluster", async () => {
  const leader = await metaLeader();
  await survives("kill-leader", async () => {
    await fleet.fleet.kill(leader);
  });
  expect(
    await until("another leads", async () => (await metaLeader(leader)) ?? undefined, 60_000),
  ).not.toBe(leader);
  await fleet.fleet.startComponent(leader);
});

test("a NATS server that is restarted in order has all again when it is well", async () => {
  await survives("restart", async () => {
    await fleet.fleet.restart("nats-2");
  });
  await allWell();
});

/** Pauses and resumes sandboxes and creates another one while `happens` runs; all succeed. */
async function survives(tag: string, happens: () => Promise<void>): Promise<void> {
  const sandboxes = await Promise.all([0, 1].map((at) => create(`${tag}-${at}`)));
  for (const [at, sandbox] of sandboxes.entries()) await execute(sandbox, `x = ${at}`);
  const lives = sandboxes.map(async (sandbox) => {
    for (const verb of ["pause", "resume"] as const)
      await insist(() => fleet.client.sandboxes[verb](sandbox.id));
  });
  const another = create(`${tag}-another`);
  await sleep(50);
  await happens();
  await Promise.all(lives);
  for (const [at, sandbox] of sandboxes.entries())
    expect(await execute(sandbox, "print(x)")).toMatchObject({ stdout: `${at}\n` });
  for (const sandbox of [...sandboxes, await another])
    await insist(() => fleet.client.sandboxes.delete(sandbox.id));
}

/** Leader of the cluster, other than `other`, as the running servers report it. */
async function metaLeader(other?: string): Promise<string> {
  return await until(
    "the cluster has a leader",
    async () => {
      const answers = await Promise.all(
        NATS.filter((name) => name !== other).map(async (name) => {
          const url = new URL("/jsz", fleet.fleet.component(name).healthUrl);
          const seen = await fresh(url.href).catch(() => undefined);
          return seen === undefined
            ? undefined
            : (JSON.parse(seen.text) as { meta_cluster?: { leader?: string } }).meta_cluster
                ?.leader;
        }),
      );
      return answers.find((leader) => leader !== undefined && leader !== "" && leader !== other);
    },
    60_000,
  );
}

/** Server that responds to /slow only at `answer()`, and to everything else at once. */
async function slowServer(): Promise<
  AsyncDisposable & { port: number; waiting: () => number; answer: () => void }
> {
  const held: (() => void)[] = [];
  const server: Server = createServer((incoming, response) => {
    if (incoming.url === "/slow") held.push(() => response.end("slow"));
    else response.end("quick");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    waiting: () => held.length,
    answer: () => held.splice(0).forEach((one) => one()),
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
