/**
 * Snapshots that move, through the public API, on simulated hosts: durability, waiting for it,
 * release from a host, and a resume on another host.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { unverifiedSandboxId } from "@torpor/contracts";
import { findSandboxRow, openDatabase } from "@torpor/db";
import {
  type S3Server,
  silentLog,
  startS3,
  startTestFleet,
  type TestFleet,
  until,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Placer } from "../../apps/scheduler/src/placement/placer.ts";
import { releaseFromHost, requestReplication } from "../../apps/scheduler/src/hosts/release.ts";

type Body = Record<string, unknown>;
const LIMIT_MS = 60_000;

function clientOf(fleet: TestFleet) {
  const id = (sandbox: Body) => String(sandbox["id"]);
  const client = {
    create: async (): Promise<Body> => {
      const { status, body } = await fleet.call("POST", "/v1/sandboxes", {
        body: { template_name: "code-interpreter" },
      });
      expect(status, JSON.stringify(body)).toBe(201);
      await fleet.guest(body, "/execute", { language: "python", code: "x = 42" });
      await fleet.guest(body, "/files/write", { path: "/workspace/note", content: "kept" });
      return body;
    },
    post: async (sandbox: Body, verb: string, headers: Record<string, string> = {}) =>
      await fleet.call("POST", `/v1/sandboxes/${id(sandbox)}/${verb}`, { headers }),
    view: async (sandbox: Body) => (await fleet.call("GET", `/v1/sandboxes/${id(sandbox)}`)).body,
    remove: async (sandbox: Body) => await fleet.call("DELETE", `/v1/sandboxes/${id(sandbox)}`),
    memory: async (sandbox: Body) =>
      (await fleet.guest(sandbox, "/execute", { language: "python", code: "print(x)" })).body[
        "stdout"
      ] as string,
    file: async (sandbox: Body) =>
      (await fleet.guest(sandbox, "/files/read?path=/workspace/note")).body["content"],
    cordon: async (hostId: unknown, verb: "cordon" | "uncordon") =>
      expect((await fleet.call("POST", `/v1/hosts/${String(hostId)}/${verb}`)).status).toBe(200),
    /** Sandboxes on a host, as the host itself reports them. */
    heldBy: async (hostId: string) => {
      const { healthUrl = "" } = fleet.fleet.component(hostId);
      const { vms } = (await (await fetch(healthUrl)).json()) as { vms: { sandboxId: string }[] };
      return vms.map(({ sandboxId }) => sandboxId);
    },
  };
  return client;
}

/** The credentials are in the variables that the AWS SDK reads by itself. */
function bucketOf({ endpoint, bucket, credentials }: S3Server): Record<string, string> {
  const { accessKeyId, secretAccessKey } = credentials;
  const found = { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
  return { SNAPSHOT_STORE: "s3", S3_ENDPOINT: endpoint, S3_BUCKET: bucket, ...found };
}

/** Dependencies of a scheduler in the test. The fleet's schedulers publish its outbox rows. */
function schedulerOver({ fleet }: TestFleet) {
  const database = openDatabase(fleet.state.databaseUrl, { maxConnections: 2 });
  const { db } = database;
  const deps = { db, placer: new Placer(db), log: silentLog(), publishCommitted: async () => {} };
  const row = async (sandbox: Body) => {
    const found = await findSandboxRow(database.db, unverifiedSandboxId(String(sandbox["id"])));
    if (found === undefined) throw new Error("it is gone");
    return found;
  };
  return { deps, row, close: () => database.close() };
}

describe.each(["a directory", "a bucket"])("with %s that the hosts share", (kind) => {
  let fleet: TestFleet;
  let s3: S3Server | undefined;
  let client: ReturnType<typeof clientOf>;
  beforeAll(async () => {
    s3 = kind === "a bucket" ? await startS3() : undefined;
    // The store is swept every second, and garbage is removed after one second.
    const sweeps = { SNAPSHOT_SWEEP_SECONDS: "1", SNAPSHOT_GRACE_SECONDS: "1" };
    fleet = await startTestFleet({
      hostEnv: { ...sweeps, ...(s3 === undefined ? {} : bucketOf(s3)) },
    });
    client = clientOf(fleet);
  });
  afterAll(async () => {
    await fleet[Symbol.asyncDispose]();
    await s3?.[Symbol.asyncDispose]();
  });
  /** Names of the sandbox's entries in the store. */
  const entriesOf = async (sandbox: Body): Promise<string[]> => {
    const stored = s3 === undefined ? join(fleet.fleet.dir, "snapshots") : join(s3.dir, "torpor");
    return await readdir(join(stored, String(sandbox["id"]), "entries")).catch(() => []);
  };

  test("S4: a pause that waits for it answers when the snapshot survives the loss of its host, and a repeat at once", async () => {
    const sandbox = await client.create();
    expect((await client.view(sandbox))["durability"]).toBeUndefined();
    const paused = await client.post(sandbox, "pause?wait_for=replicated");
    expect(paused, JSON.stringify(paused.body)).toMatchObject({
      status: 200,
      body: { status: "paused", durability: "replicated" },
    });
    expect(await client.view(sandbox)).toMatchObject({
      status: "paused",
      durability: "replicated",
    });
    expect(await client.post(sandbox, "pause?wait_for=replicated")).toMatchObject({
      status: 200,
      body: { durability: "replicated" },
    });
    expect(await client.post(sandbox, "pause?wait_for=whatever")).toMatchObject({
      status: 400,
      body: { code: "INVALID_REQUEST" },
    });
    await client.remove(sandbox);
  });

  test.each([
    ["pause", "paused", "resume"],
    ["stop", "stopped", "start"],
  ] as const)(
    "S36: after a %s a sandbox leaves its host, which is rid of it, and goes on elsewhere",
    async (verb, state, again) => {
      const { deps, row, close } = schedulerOver(fleet);
      const sandbox = await client.create();
      const id = String(sandbox["id"]);
      const origin = String((await client.view(sandbox))["node_id"]);
      try {
        await client.post(sandbox, verb);
        expect(["requested", "replicated"]).toContain(
          await requestReplication(deps, await row(sandbox)),
        );
        await until(
          "it is replicated",
          async () => (await client.view(sandbox))["durability"] === "replicated",
          LIMIT_MS,
        );
        expect(await releaseFromHost(deps, await row(sandbox))).toBe("released");
        expect(await client.view(sandbox)).toMatchObject({
          status: state,
          durability: "replicated",
        });
        expect((await client.view(sandbox))["node_id"]).toBeUndefined();
        await until(
          "its host is rid of it",
          async () => !(await client.heldBy(origin)).includes(id),
          LIMIT_MS,
        );
        await client.cordon(origin, "cordon");
        const resumed = await client.post(sandbox, again);
        expect(resumed, JSON.stringify(resumed.body)).toMatchObject({
          status: 200,
          body: { status: "running" },
        });
        expect((await client.view(sandbox))["node_id"]).not.toBe(origin);
        expect(await client.file(sandbox)).toBe("kept");
        if (verb === "pause") expect(await client.memory(sandbox)).toBe("42\n");
      } finally {
        await client.cordon(origin, "uncordon");
        await client.remove(sandbox);
        await close();
      }
    },
  );

  test("what a later pause has made useless is swept from the store, and what is needed is not", async () => {
    const sandbox = await client.create();
    await client.post(sandbox, "pause?wait_for=replicated");
    const first = await entriesOf(sandbox);
    expect(first).toHaveLength(1);
    expect(await client.post(sandbox, "resume")).toMatchObject({ status: 200 });
    await client.post(sandbox, "pause?wait_for=replicated");
    const left = await until(
      "the first is swept",
      async () => {
        const entries = await entriesOf(sandbox);
        return entries.some((entry) => first.includes(entry)) ? undefined : entries;
      },
      LIMIT_MS,
    );
    expect(left).toHaveLength(1);
    const { deps, row, close } = schedulerOver(fleet);
    try {
      expect(await releaseFromHost(deps, await row(sandbox))).toBe("released");
      expect(await client.post(sandbox, "resume")).toMatchObject({ status: 200 });
      expect(await client.memory(sandbox)).toBe("42\n");
    } finally {
      await close();
    }
    await client.remove(sandbox);
    await until(
      "nothing is left of it",
      async () => (await entriesOf(sandbox)).length === 0,
      LIMIT_MS,
    );
  });

  test("a paused sandbox that the store alone has is stopped and started again with its files", async () => {
    const { deps, row, close } = schedulerOver(fleet);
    const sandbox = await client.create();
    try {
      await client.post(sandbox, "pause?wait_for=replicated");
      expect(await releaseFromHost(deps, await row(sandbox))).toBe("released");
      const stopped = await client.post(sandbox, "stop");
      expect(stopped, JSON.stringify(stopped.body)).toMatchObject({
        status: 200,
        body: { status: "stopped" },
      });
      expect(await client.view(sandbox)).toMatchObject({
        status: "stopped",
        durability: "host-disk",
      });
      expect(await client.post(sandbox, "start")).toMatchObject({ status: 200 });
      expect(await client.file(sandbox)).toBe("kept");
    } finally {
      await client.remove(sandbox);
      await close();
    }
  });
});

describe("with a store that cannot be used", () => {
  let fleet: TestFleet;
  let client: ReturnType<typeof clientOf>;
  beforeAll(async () => {
    fleet = await startTestFleet({ hostEnv: { SNAPSHOT_STORE_DIR: "/dev/null/store" } });
    client = clientOf(fleet);
  });
  afterAll(async () => {
    await fleet[Symbol.asyncDispose]();
  });

  test("S4: a pause says that it is on its host's disk alone; waiting for more ends with the reason, and the sandbox is paused all the same", async () => {
    const sandbox = await client.create();
    expect(await client.post(sandbox, "pause")).toMatchObject({ status: 200 });
    const waited = await client.post(sandbox, "pause?wait_for=replicated", { prefer: "wait=3" });
    expect(waited).toMatchObject({ status: 503, body: { code: "OPERATION_IN_PROGRESS" } });
    expect(waited.headers.get("retry-after")).toBe("1");
    expect(await client.view(sandbox)).toMatchObject({ status: "paused", durability: "host-disk" });
    const ended = await until(
      "the host gives up",
      async () => {
        const answer = await client.post(sandbox, "pause?wait_for=replicated");
        return answer.status === 503 ? undefined : answer;
      },
      110_000,
    );
    expect(ended).toMatchObject({
      status: 409,
      body: { code: "REPLICATION_FAILED", details: { durability: "host-disk" } },
    });
    expect(String(ended.body["message"])).toContain("/dev/null/store");
    expect(await client.post(sandbox, "resume")).toMatchObject({ status: 200 });
    expect(await client.memory(sandbox)).toBe("42\n");
    await client.remove(sandbox);
  });

  test.each([
    ["pause", "resume"],
    ["stop", "start"],
  ] as const)(
    "after a %s a sandbox whose host takes nothing new goes on on another one, straight from the first, which then forgets it",
    async (verb, again) => {
      const sandbox = await client.create();
      const id = String(sandbox["id"]);
      const origin = String((await client.view(sandbox))["node_id"]);
      await client.post(sandbox, verb);
      expect(await client.view(sandbox)).toMatchObject({
        node_id: origin,
        durability: "host-disk",
      });
      await client.cordon(origin, "cordon");
      try {
        const running = await client.post(sandbox, again);
        expect(running, JSON.stringify(running.body)).toMatchObject({
          status: 200,
          body: { status: "running" },
        });
        expect((await client.view(sandbox))["node_id"]).not.toBe(origin);
        if (verb === "pause") expect(await client.memory(sandbox)).toBe("42\n");
        expect(await client.file(sandbox)).toBe("kept");
        await until(
          "its first host has forgotten it",
          async () => !(await client.heldBy(origin)).includes(id),
          LIMIT_MS,
        );
      } finally {
        await client.cordon(origin, "uncordon");
        await client.remove(sandbox);
      }
    },
  );
});

describe("with hosts that have no store", () => {
  let fleet: TestFleet;
  let client: ReturnType<typeof clientOf>;
  beforeAll(async () => {
    fleet = await startTestFleet({ hostEnv: { SNAPSHOT_STORE: "none" } });
    client = clientOf(fleet);
  });
  afterAll(async () => {
    await fleet[Symbol.asyncDispose]();
  });

  test("S4: what is paused never counts as replicated, and waiting for it is refused by name, with the sandbox paused", async () => {
    const sandbox = await client.create();
    expect(await client.post(sandbox, "pause")).toMatchObject({ status: 200 });
    const waited = await client.post(sandbox, "pause?wait_for=replicated");
    expect(waited).toMatchObject({
      status: 409,
      body: { code: "NO_SNAPSHOT_STORE", details: { durability: "host-disk" } },
    });
    expect(String(waited.body["message"])).toContain("SNAPSHOT_STORE");
    expect(await client.view(sandbox)).toMatchObject({ status: "paused", durability: "host-disk" });
    expect(await client.post(sandbox, "resume")).toMatchObject({ status: 200 });
    expect(await client.memory(sandbox)).toBe("42\n");
    await client.remove(sandbox);
  });

  test("a drain moves what runs straight from host to host, and says why it cannot take along what was paused", async () => {
    const sandbox = await client.create();
    const origin = String((await client.view(sandbox))["node_id"]);
    expect(
      (await fleet.call("POST", `/v1/hosts/${origin}/drain`, { body: { max_parallel: 1 } })).status,
    ).toBe(200);
    const moved = await until(
      "it runs elsewhere",
      async () => {
        const { status, node_id } = await client.view(sandbox);
        return status === "running" && node_id !== origin && String(node_id);
      },
      LIMIT_MS,
    );
    expect(await client.memory(sandbox)).toBe("42\n");
    await until(
      "the drain is done",
      async () => (await fleet.call("GET", `/v1/hosts/${origin}`)).body["state"] === "cordoned",
      LIMIT_MS,
    );
    await client.cordon(origin, "uncordon");

    await client.post(sandbox, "pause");
    expect(
      (await fleet.call("POST", `/v1/hosts/${moved}/drain`, { body: { max_parallel: 1 } })).status,
    ).toBe(200);
    const drain = await until(
      "the drain says why",
      async () => {
        const { drain } = (await fleet.call("GET", `/v1/hosts/${moved}`)).body as {
          drain: { failures: unknown[] };
        };
        return drain.failures.length > 0 && drain;
      },
      LIMIT_MS,
    );
    expect(drain).toMatchObject({ failures: [{ code: "NO_SNAPSHOT_STORE" }] });
    expect((await fleet.call("POST", `/v1/hosts/${moved}/drain/abort`)).status).toBe(200);
    expect(await client.post(sandbox, "resume")).toMatchObject({ status: 200 });
    expect(await client.memory(sandbox)).toBe("42\n");
    await client.remove(sandbox);
  });
});
