/**
 * Snapshots that move, through the public API, on simulated hosts: durability, waiting for it,
 * release from a host, and a resume on another host.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { findSandboxRow, openDatabase } from "@torpor/db";
import {
  ApiRefusal,
  readGuestFile,
  runCode,
  type S3Server,
  type SandboxResource,
  silentLog,
  startS3,
  startTestFleet,
  type TestFleet,
  until,
  writeGuestFile,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Placer } from "../../apps/scheduler/src/placement/placer.ts";
import { releaseFromHost, requestReplication } from "../../apps/scheduler/src/hosts/release.ts";

const LIMIT_MS = 60_000;
const REPLICATED = { waitFor: "replicated" } as const;

/** Creates a sandbox with `x` in its memory and a note on its disk. */
async function create(fleet: TestFleet): Promise<SandboxResource> {
  const sandbox = await fleet.createSandbox();
  await runCode(sandbox, "x = 42");
  await writeGuestFile(sandbox, "/workspace/note", "kept");
  return sandbox;
}
const memory = async (sandbox: SandboxResource) => (await runCode(sandbox, "print(x)")).stdout;
const note = (sandbox: SandboxResource) => readGuestFile(sandbox, "/workspace/note");
/** Waits until the host itself does not report the sandbox any more. */
async function isForgotten(fleet: TestFleet, hostId: string, id: string): Promise<void> {
  const { healthUrl = "" } = fleet.fleet.component(hostId);
  await until(
    `${hostId} has forgotten it`,
    async () => {
      const { vms } = (await (await fetch(healthUrl)).json()) as { vms: { sandboxId: string }[] };
      return !vms.some(({ sandboxId }) => sandboxId === id);
    },
    LIMIT_MS,
  );
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
  const row = async ({ id }: SandboxResource) => {
    const found = await findSandboxRow(database.db, id);
    if (found === undefined) throw new Error("it is gone");
    return found;
  };
  return { deps, row, close: () => database.close() };
}

describe.each(["a directory", "a bucket"])("with %s that the hosts share", (kind) => {
  let fleet: TestFleet;
  let s3: S3Server | undefined;
  beforeAll(async () => {
    s3 = kind === "a bucket" ? await startS3() : undefined;
    // The store is swept every second, and garbage is removed after one second.
    const sweeps = { SNAPSHOT_SWEEP_SECONDS: "1", SNAPSHOT_GRACE_SECONDS: "1" };
    fleet = await startTestFleet({
      hostEnv: { ...sweeps, ...(s3 === undefined ? {} : bucketOf(s3)) },
    });
  });
  afterAll(async () => {
    await fleet[Symbol.asyncDispose]();
    await s3?.[Symbol.asyncDispose]();
  });
  /** Names of the sandbox's entries in the store. */
  const entriesOf = async ({ id }: SandboxResource): Promise<string[]> => {
    const stored = s3 === undefined ? join(fleet.fleet.dir, "snapshots") : join(s3.dir, "torpor");
    return await readdir(join(stored, id, "entries")).catch(() => []);
  };

  test("S4: a pause that waits for it answers when the snapshot survives the loss of its host, and a repeat at once", async () => {
    const sandbox = await create(fleet);
    expect((await fleet.client.sandboxes.get(sandbox.id)).durability).toBeUndefined();
    expect(await fleet.client.sandboxes.pause(sandbox.id, REPLICATED)).toMatchObject({
      status: "paused",
      durability: "replicated",
    });
    expect(await fleet.client.sandboxes.get(sandbox.id)).toMatchObject({
      status: "paused",
      durability: "replicated",
    });
    expect(await fleet.client.sandboxes.pause(sandbox.id, REPLICATED)).toMatchObject({
      durability: "replicated",
    });
    const path = `/v1/sandboxes/${sandbox.id}/pause?wait_for=whatever`;
    expect(await fleet.call("POST", path)).toMatchObject({
      status: 400,
      body: { code: "INVALID_REQUEST" },
    });
    await fleet.client.sandboxes.delete(sandbox.id);
  });

  test.each([
    ["pause", "paused", "resume"],
    ["stop", "stopped", "start"],
  ] as const)(
    "S36: after a %s a sandbox leaves its host, which is rid of it, and goes on elsewhere",
    async (verb, state, again) => {
      const { deps, row, close } = schedulerOver(fleet);
      const sandbox = await create(fleet);
      const origin = (await fleet.client.sandboxes.get(sandbox.id)).node_id ?? "";
      try {
        await fleet.client.sandboxes[verb](sandbox.id);
        expect(["requested", "replicated"]).toContain(
          await requestReplication(deps, await row(sandbox)),
        );
        await fleet.untilSandbox(
          "it is replicated",
          sandbox.id,
          ({ durability }) => durability === "replicated",
          LIMIT_MS,
        );
        expect(await releaseFromHost(deps, await row(sandbox))).toBe("released");
        expect(await fleet.client.sandboxes.get(sandbox.id)).toMatchObject({
          status: state,
          durability: "replicated",
        });
        expect((await fleet.client.sandboxes.get(sandbox.id)).node_id).toBeUndefined();
        await isForgotten(fleet, origin, sandbox.id);
        await fleet.client.hosts.cordon(origin);
        const resumed = await fleet.client.sandboxes[again](sandbox.id);
        expect(resumed).toMatchObject({ status: "running" });
        expect((await fleet.client.sandboxes.get(sandbox.id)).node_id).not.toBe(origin);
        expect(await note(sandbox)).toBe("kept");
        if (verb === "pause") expect(await memory(sandbox)).toBe("42\n");
      } finally {
        await fleet.client.hosts.uncordon(origin);
        await fleet.client.sandboxes.delete(sandbox.id);
        await close();
      }
    },
  );

  test("what a later pause has made useless is swept from the store, and what is needed is not", async () => {
    const sandbox = await create(fleet);
    await fleet.client.sandboxes.pause(sandbox.id, REPLICATED);
    const first = await entriesOf(sandbox);
    expect(first).toHaveLength(1);
    await fleet.client.sandboxes.resume(sandbox.id);
    await fleet.client.sandboxes.pause(sandbox.id, REPLICATED);
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
      await fleet.client.sandboxes.resume(sandbox.id);
      expect(await memory(sandbox)).toBe("42\n");
    } finally {
      await close();
    }
    await fleet.client.sandboxes.delete(sandbox.id);
    await until(
      "nothing is left of it",
      async () => (await entriesOf(sandbox)).length === 0,
      LIMIT_MS,
    );
  });

  test("a paused sandbox that the store alone has is stopped and started again with its files", async () => {
    const { deps, row, close } = schedulerOver(fleet);
    const sandbox = await create(fleet);
    try {
      await fleet.client.sandboxes.pause(sandbox.id, REPLICATED);
      expect(await releaseFromHost(deps, await row(sandbox))).toBe("released");
      const stopped = await fleet.client.sandboxes.stop(sandbox.id);
      expect(stopped).toMatchObject({ status: "stopped" });
      expect(await fleet.client.sandboxes.get(sandbox.id)).toMatchObject({
        status: "stopped",
        durability: "host-disk",
      });
      await fleet.client.sandboxes.start(sandbox.id);
      expect(await note(sandbox)).toBe("kept");
    } finally {
      await fleet.client.sandboxes.delete(sandbox.id);
      await close();
    }
  });
});

describe("with a store that cannot be used", () => {
  let fleet: TestFleet;
  beforeAll(async () => {
    fleet = await startTestFleet({ hostEnv: { SNAPSHOT_STORE_DIR: "/dev/null/store" } });
  });
  afterAll(async () => {
    await fleet[Symbol.asyncDispose]();
  });

  test("S4: a pause says that it is on its host's disk alone; waiting for more ends with the reason, and the sandbox is paused all the same", async () => {
    const sandbox = await create(fleet);
    await fleet.client.sandboxes.pause(sandbox.id);
    const { sandboxes } = fleet.client;
    const waited = sandboxes.pause(sandbox.id, { ...REPLICATED, waitSeconds: 3 });
    await expect(waited).rejects.toMatchObject({
      status: 503,
      code: "OPERATION_IN_PROGRESS",
      retryAfterSeconds: 1,
    });
    expect(await fleet.client.sandboxes.get(sandbox.id)).toMatchObject({
      status: "paused",
      durability: "host-disk",
    });
    const ended = await until(
      "the host gives up",
      async () => {
        const answer = await sandboxes
          .pause(sandbox.id, REPLICATED)
          .catch((error: unknown) => error);
        return answer instanceof ApiRefusal && answer.status === 503 ? undefined : answer;
      },
      110_000,
    );
    expect(ended).toMatchObject({
      status: 409,
      code: "REPLICATION_FAILED",
      message: expect.stringContaining("/dev/null/store"),
      details: { durability: "host-disk" },
    });
    await fleet.client.sandboxes.resume(sandbox.id);
    expect(await memory(sandbox)).toBe("42\n");
    await fleet.client.sandboxes.delete(sandbox.id);
  });

  test.each([
    ["pause", "resume"],
    ["stop", "start"],
  ] as const)(
    "after a %s a sandbox whose host takes nothing new goes on on another one, straight from the first, which then forgets it",
    async (verb, again) => {
      const sandbox = await create(fleet);
      const origin = (await fleet.client.sandboxes.get(sandbox.id)).node_id ?? "";
      await fleet.client.sandboxes[verb](sandbox.id);
      expect(await fleet.client.sandboxes.get(sandbox.id)).toMatchObject({
        node_id: origin,
        durability: "host-disk",
      });
      await fleet.client.hosts.cordon(origin);
      try {
        const running = await fleet.client.sandboxes[again](sandbox.id);
        expect(running).toMatchObject({ status: "running" });
        expect((await fleet.client.sandboxes.get(sandbox.id)).node_id).not.toBe(origin);
        if (verb === "pause") expect(await memory(sandbox)).toBe("42\n");
        expect(await note(sandbox)).toBe("kept");
        await isForgotten(fleet, origin, sandbox.id);
      } finally {
        await fleet.client.hosts.uncordon(origin);
        await fleet.client.sandboxes.delete(sandbox.id);
      }
    },
  );
});

describe("with hosts that have no store", () => {
  let fleet: TestFleet;
  beforeAll(async () => {
    fleet = await startTestFleet({ hostEnv: { SNAPSHOT_STORE: "none" } });
  });
  afterAll(async () => {
    await fleet[Symbol.asyncDispose]();
  });

  test("S4: what is paused never counts as replicated, and waiting for it is refused by name, with the sandbox paused", async () => {
    const sandbox = await create(fleet);
    await fleet.client.sandboxes.pause(sandbox.id);
    const waited = fleet.client.sandboxes.pause(sandbox.id, REPLICATED);
    await expect(waited).rejects.toMatchObject({
      status: 409,
      code: "NO_SNAPSHOT_STORE",
      message: expect.stringContaining("SNAPSHOT_STORE"),
      details: { durability: "host-disk" },
    });
    expect(await fleet.client.sandboxes.get(sandbox.id)).toMatchObject({
      status: "paused",
      durability: "host-disk",
    });
    await fleet.client.sandboxes.resume(sandbox.id);
    expect(await memory(sandbox)).toBe("42\n");
    await fleet.client.sandboxes.delete(sandbox.id);
  });

  test("a drain moves what runs straight from host to host, and says why it cannot take along what was paused", async () => {
    const sandbox = await create(fleet);
    const origin = (await fleet.client.sandboxes.get(sandbox.id)).node_id ?? "";
    const { hosts, sandboxes } = fleet.client;
    await hosts.drain(origin, { max_parallel: 1 });
    const { node_id: moved = "" } = await fleet.untilSandbox(
      "it runs elsewhere",
      sandbox.id,
      ({ status, node_id }) => status === "running" && node_id !== origin,
      LIMIT_MS,
    );
    expect(await memory(sandbox)).toBe("42\n");
    await fleet.untilHost(
      "the drain is done",
      origin,
      ({ state }) => state === "cordoned",
      LIMIT_MS,
    );
    await hosts.uncordon(origin);

    await sandboxes.pause(sandbox.id);
    await hosts.drain(moved, { max_parallel: 1 });
    const { drain } = await fleet.untilHost(
      "the drain says why",
      moved,
      ({ drain }) => (drain?.failures.length ?? 0) > 0,
      LIMIT_MS,
    );
    expect(drain).toMatchObject({ failures: [{ code: "NO_SNAPSHOT_STORE" }] });
    await hosts.abortDrain(moved);
    await fleet.client.sandboxes.resume(sandbox.id);
    expect(await memory(sandbox)).toBe("42\n");
    await fleet.client.sandboxes.delete(sandbox.id);
  });
});
