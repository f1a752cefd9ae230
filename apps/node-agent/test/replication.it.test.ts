/**
 * A host copies its sandboxes to the store: by itself after a pause, on demand when they are
 * stopped, across its own restarts, and never in the way of a resume.
 */
import { once } from "node:events";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { newOperationId, type Observation, type VmCommand } from "@torpor/contracts";
import { tempDir, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import type { Driver } from "../src/drivers/driver.ts";
import { SnapshotServer } from "../src/data-plane/snapshot-server.ts";
import { driverNamed } from "./support/drivers.ts";
import { fileBlobs, holdEntries, WatchedBlobs } from "./support/snapshots.ts";
import {
  commandsOf,
  type Kind,
  killVmms,
  prepareImages,
  SANDBOX,
  TestHost,
  vmmProcesses,
} from "./support/test-host.ts";

const LIMIT_MS = 45_000;
const QUIET_MS = 300;
const driver = driverNamed("simulated");
let root: Awaited<ReturnType<typeof tempDir>>;
let imageSha256: string;
let blobs: WatchedBlobs;
let dir: string;
let host: TestHost;
let commands: VmCommand[];
const ended = new AbortController();
const opened: TestHost[] = [];

beforeAll(async () => {
  root = await tempDir();
  imageSha256 = await prepareImages(join(root.path, "images"), driver);
});
afterAll(async () => {
  ended.abort();
  await root[Symbol.asyncDispose]();
});
let made = 0;
beforeEach(async () => {
  made += 1;
  blobs = new WatchedBlobs(fileBlobs(join(root.path, `store-${made}`)));
  dir = join(root.path, `host-${made}`);
  host = await hostIn(dir);
});
afterEach(async () => {
  blobs.before = () => {};
  for (const one of opened.splice(0)) await one.end();
});

async function hostIn(
  path: string,
  given: { driver?: Driver; blobs?: "none" } = {},
): Promise<TestHost> {
  await mkdir(path, { recursive: true });
  const made = new TestHost(
    path,
    given.driver ?? driver,
    () => {},
    join(root.path, "images"),
    given.blobs ?? blobs,
  );
  opened.push(made);
  await made.supervisor.adopt();
  return made;
}

/** Completes the commands that are new. */
async function bring(...kinds: Kind[]): Promise<Observation> {
  commands = commandsOf(kinds, imageSha256);
  return await host.bring(commands);
}

const replicate = (given: Partial<VmCommand> = {}): VmCommand => {
  const last = commands.at(-1);
  if (last === undefined) throw new Error("nothing was done before");
  return { ...last, kind: "replicate", operationId: newOperationId(), ...given };
};
const offered = async (snapshot: Observation["snapshot"]) => {
  if (snapshot === undefined) throw new Error("it has no name");
  return await host.supervisor.offer(SANDBOX, snapshot.generation, snapshot.manifestSha256);
};

test("a stopped sandbox's disk is copied when it is asked for, and another host starts it with its files", async () => {
  const { snapshot } = await bring("create", "stop");
  expect(snapshot).toMatchObject({ generation: 1, storeKey: null });
  expect(await host.supervisor.submit(replicate({ opSeq: 1 })), "of before the stop").toBe("stale");
  expect(blobs.calls).toEqual([]);
  expect(await host.supervisor.submit(replicate())).toBe("journalled");
  const stored = await host.stored();
  expect(stored).toMatchObject({ generation: 1, guestSynced: true });
  expect(stored.manifestSha256).toBe(snapshot?.manifestSha256);
  expect(host.seen.at(-1)).toMatchObject({ state: "stopped", opSeq: 2, snapshot: stored });
  expect(await host.supervisor.submit(replicate())).toBe("repeated");

  const other = await hostIn(join(root.path, `other-${made}`));
  const start = commandsOf(["create", "stop", "start"], imageSha256).at(-1);
  if (start === undefined) throw new Error("there is a start");
  const { generation, storeKey, manifestSha256 } = stored;
  expect(
    await other.complete({ ...start, snapshot: { generation, storeKey, manifestSha256 } }),
  ).toMatchObject({
    state: "running",
    operation: { outcome: "succeeded" },
  });
  expect(await other.guest("/files/read", { path: "/workspace/note" })).toMatchObject({
    content: "kept",
  });
});

test("a sandbox that leaves and is told to come back before it has left is here, and known", async () => {
  await bring("create", "pause");
  const { generation, storeKey, manifestSha256 } = await host.stored();
  const [, pause, resume] = commandsOf(["create", "pause", "resume"], imageSha256) as [
    VmCommand,
    VmCommand,
    VmCommand,
  ];
  const leave = host.supervisor.submit({
    ...pause,
    kind: "discard",
    operationId: newOperationId(),
    epoch: pause.epoch + 1,
  });
  const back = {
    ...resume,
    epoch: resume.epoch + 1,
    snapshot: { generation, storeKey, manifestSha256 },
  };
  expect(await host.complete(back)).toMatchObject({
    state: "running",
    operation: { outcome: "succeeded" },
  });
  expect(await leave).toBe("journalled");
  expect(host.supervisor.inventory()).toMatchObject([
    { sandboxId: SANDBOX, state: "running", epoch: back.epoch },
  ]);
  expect(await host.guest("/files/read", { path: "/workspace/note" })).toMatchObject({
    content: "kept",
  });
});

test("a copy that was not there when the agent ended is there after it has started again", async () => {
  const { held, release } = holdEntries(blobs);
  await bring("create", "stop");
  await host.supervisor.submit(replicate());
  await held;
  await host.close();
  release();
  blobs.forget();
  host = await hostIn(dir);
  expect(await host.stored()).toMatchObject({ generation: 1 });
  expect(blobs.sent(), "they were there").toEqual([]);
});

test("S1: what changes between two pauses is there after each resume", async () => {
  const kinds: Kind[] = ["create"];
  await bring(...kinds);
  for (let cycle = 1; cycle <= 5; cycle += 1) {
    const path = (at: number) => `/workspace/${at}`;
    await host.guest("/execute", { code: `x = ${cycle}` });
    await host.guest("/files/write", { path: path(cycle), content: `kept ${cycle}` });
    kinds.push("pause", "resume");
    expect(await bring(...kinds)).toMatchObject({
      state: "running",
      operation: { outcome: "succeeded" },
    });
    expect(await host.guest("/execute", { code: "print(x)" })).toMatchObject({
      stdout: `${cycle}\n`,
    });
    for (let at = 1; at <= cycle; at += 1)
      expect(await host.guest("/files/read", { path: path(at) })).toMatchObject({
        content: `kept ${at}`,
      });
  }
});

test("S21, S45: a resume does not wait for the copy, and the next pause sends only what has changed", async () => {
  const { held, release } = holdEntries(blobs);
  await bring("create", "pause");
  await held;
  expect(await bring("create", "pause", "resume")).toMatchObject({
    state: "running",
    operation: { outcome: "succeeded" },
  });
  release();
  expect(await bring("create", "pause", "resume", "pause")).toMatchObject({
    state: "paused",
    operation: { outcome: "succeeded" },
  });
  expect(await host.stored()).toMatchObject({ generation: 2 });
  const sent = blobs.sent();
  expect(sent.length).toBeGreaterThan(0);
  expect(new Set(sent).size).toBe(sent.length);
});

test("a copy and a fetch go no faster than their command says", async () => {
  const SLOWEST = { maxBytesPerSecond: 1 };
  const [create, pause, resume] = commandsOf(["create", "pause", "resume"], imageSha256) as [
    VmCommand,
    VmCommand,
    VmCommand,
  ];
  await host.complete(create);
  await host.complete({ ...pause, ...SLOWEST });
  await until("the copy begins", () => blobs.sent().length > 0, LIMIT_MS);
  await sleep(QUIET_MS);
  expect(blobs.sent(), "the second waits for the first one's bytes").toHaveLength(1);
  await host.close();
  host = await hostIn(dir);
  commands = [create, pause];
  expect(await host.supervisor.submit(replicate({ maxBytesPerSecond: 1024 ** 3 }))).toBe(
    "journalled",
  );
  const { generation, storeKey, manifestSha256 } = await host.stored();

  const other = await hostIn(join(root.path, `other-${made}`));
  blobs.forget();
  const slow = { ...resume, ...SLOWEST, snapshot: { generation, storeKey, manifestSha256 } };
  expect(await other.supervisor.submit(slow)).toBe("journalled");
  await until("the fetch begins", () => blobs.got().length > 0, LIMIT_MS);
  await sleep(QUIET_MS);
  const { bytesDone = 0, bytesTotal = 0 } = other.supervisor.inventory()[0]?.fetching ?? {};
  expect(bytesDone, "the second waits for the first one's bytes").toBeLessThan(bytesTotal);
  await other.supervisor.submit({ ...slow, kind: "cancel", cancels: slow.operationId });
  await until(
    "it has backed out",
    () => other.seen.find(({ operation }) => operation?.outcome === "cancelled"),
    LIMIT_MS,
  );
  await other.close();
});

test(
  "RE2: a store that stays away is said with its reason, and asked again on demand",
  { timeout: 120_000 },
  async () => {
    const away = () => {
      throw new Error("no route to the store");
    };
    blobs.before = away;
    await bring("create", "pause");
    const failed = await until(
      "the failure",
      () => host.seen.find(({ replicationFailed }) => replicationFailed !== undefined),
      90_000,
    );
    expect(failed).toMatchObject({
      state: "paused",
      snapshot: { storeKey: null },
      replicationFailed: { code: "REPLICATION_FAILED" },
    });
    expect(failed.replicationFailed?.message).toContain("no route to the store");
    blobs.forget();
    expect(await host.supervisor.submit(replicate())).toBe("journalled");
    await host.stored();
    expect(host.seen.at(-1)?.replicationFailed).toBeUndefined();
  },
);

test("how far it is stands in the inventory, and a delete ends it", async () => {
  await bring("create", "stop");
  await host.supervisor.submit(replicate({ maxBytesPerSecond: 1 }));
  const seen = await until(
    "progress",
    () => host.supervisor.inventory().find(({ replicating }) => replicating !== undefined),
    LIMIT_MS,
  );
  expect(seen.replicating?.bytesTotal).toBeGreaterThan(0);
  expect(await bring("create", "stop", "delete")).toMatchObject({ state: "deleted" });
  expect(host.supervisor.inventory()).toEqual([]);
  const left: string[] = [];
  for await (const { key } of blobs.list(`${SANDBOX}/`, ended.signal)) left.push(key);
  expect(left).toEqual([]);
});

test("how much of a sandbox has arrived on another host stands in that one's inventory, until the operation has ended", async () => {
  await bring("create", "pause");
  const { generation, storeKey, manifestSha256 } = await host.stored();
  const get = blobs.get.bind(blobs);
  const released = Promise.withResolvers<void>();
  let chunks = 0;
  blobs.get = async (key, signal) => {
    if (key.includes("/chunks/") && (chunks += 1) > 1) await released.promise;
    return await get(key, signal);
  };
  const other = await hostIn(join(root.path, `other-${made}`));
  const resume = commandsOf(["create", "pause", "resume"], imageSha256).at(-1);
  if (resume === undefined) throw new Error("there is a resume");
  const resumed = other.complete({ ...resume, snapshot: { generation, storeKey, manifestSha256 } });
  const seen = await until("a chunk has arrived", () =>
    other.supervisor.inventory().find(({ fetching }) => (fetching?.bytesDone ?? 0) > 0),
  );
  expect(seen).toMatchObject({ busyWith: resume.operationId });
  expect(seen.fetching?.bytesTotal).toBeGreaterThan(seen.fetching?.bytesDone ?? 0);
  released.resolve();
  expect(await resumed).toMatchObject({ state: "running", operation: { outcome: "succeeded" } });
  expect(other.supervisor.inventory()[0]?.fetching).toBeUndefined();
});

test("another host gets a paused sandbox straight from this one; one that runs is given to nobody", async () => {
  const { snapshot } = await bring("create", "pause");
  if (snapshot === undefined) throw new Error("the pause left no snapshot");
  const { generation, manifestSha256 } = snapshot;
  expect(await host.supervisor.offer(SANDBOX, generation, manifestSha256)).toMatchObject({
    sandboxId: SANDBOX,
    generation,
  });
  expect(await host.supervisor.offer(SANDBOX, generation, "0".repeat(64))).toBeUndefined();
  expect(await host.supervisor.offer(SANDBOX, generation + 1, manifestSha256)).toBeUndefined();
  await bring("create", "pause", "resume");
  expect(await host.supervisor.offer(SANDBOX, generation, manifestSha256)).toBeUndefined();
});

test("a stopped sandbox too, whichever way it stopped, and each stop's disk has a name of its own", async () => {
  const { snapshot: first } = await bring("create", "stop");
  expect(await offered(first)).toMatchObject({
    sandboxId: SANDBOX,
    files: { "disk.raw": expect.stringContaining(dir) as string },
  });
  await bring("create", "stop", "start");
  expect(await offered(first)).toBeUndefined();
  void host.supervisor.watch();
  await killVmms(vmmProcesses(dir));
  const { snapshot: second } = await until("its end is noticed", () =>
    host.seen.findLast(({ state, epoch }) => state === "stopped" && epoch === 2),
  );
  expect(await offered(second)).toMatchObject({ sandboxId: SANDBOX });
  expect(await offered(first)).toBeUndefined();
});

test("what is stored too comes from the host that lives, without waiting until that has hashed all of it", async () => {
  await bring("create", "pause");
  const { generation, storeKey, manifestSha256 } = await host.stored();
  const door = new SnapshotServer((...asked) => host.supervisor.offer(...asked));
  let chunks = 0;
  const server = createServer((incoming, response) => {
    if (incoming.url?.includes("/index") === true) return;
    chunks += 1;
    void door.answer(incoming, response);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const sourceUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const other = await hostIn(join(root.path, `other-${made}`));
  const resume = commandsOf(["create", "pause", "resume"], imageSha256).at(-1);
  if (resume === undefined) throw new Error("there is a resume");
  try {
    blobs.forget();
    expect(
      await other.complete({
        ...resume,
        snapshot: { generation, storeKey, manifestSha256, sourceUrl },
      }),
    ).toMatchObject({
      state: "running",
      operation: { outcome: "succeeded" },
    });
    expect(chunks).toBeGreaterThan(0);
    expect(blobs.got()).toEqual([]);
    expect(await other.guest("/files/read", { path: "/workspace/note" })).toMatchObject({
      content: "kept",
    });
  } finally {
    server.closeAllConnections();
    server.close();
    await driver.end(other.vm, { graceMs: 0 });
  }
});

test("that the copy is stored cannot be written down: the host goes on, and says it when it is asked", async () => {
  const { held, release } = holdEntries(blobs);
  await bring("create", "pause");
  await held;
  const failed = Promise.withResolvers<void>();
  const write = host.store.write.bind(host.store);
  host.store.write = async () => {
    host.store.write = write;
    failed.resolve();
    throw new Error("ENOSPC");
  };
  release();
  await failed.promise;
  expect(await host.supervisor.submit(replicate())).toBe("repeated");
  expect(await host.stored()).toMatchObject({ generation: 1 });
});

test("without a store a pause is said not to be copied before anything of it is read", async () => {
  host = await hostIn(join(root.path, `alone-${made}`), { blobs: "none" });
  const [create, pause] = commandsOf(["create", "pause"], imageSha256) as [VmCommand, VmCommand];
  await host.complete(create);
  const isSnapshotFile = (name: string) =>
    name.startsWith("snap.1/") && !name.endsWith("manifest.json");
  host.onCommit = async () => {
    const files = (await readdir(host.vm.dir, { recursive: true })).filter(isSnapshotFile);
    expect(files.length).toBeGreaterThan(0);
    for (const name of files) await writeFile(join(host.vm.dir, name), "damaged");
  };
  await host.complete(pause);
  const failed = await until(
    "the refusal",
    () => host.seen.find(({ replicationFailed }) => replicationFailed !== undefined),
    LIMIT_MS,
  );
  expect(failed).toMatchObject({
    state: "paused",
    replicationFailed: { code: "NO_SNAPSHOT_STORE" },
  });
});

test("a start that is told to back out while it restores leaves the disk, and its name", async () => {
  const restoring = Promise.withResolvers<void>();
  const restore: Driver["restore"] = async (_vm, _dir, _saved, signal) => {
    restoring.resolve();
    await once(signal, "abort");
    throw signal.reason as Error;
  };
  const path = join(root.path, `slow-${made}`);
  host = await hostIn(path);
  const { snapshot } = await bring("create", "stop");
  await host.close();
  host = await hostIn(path, {
    driver: Object.assign(Object.create(driver) as Driver, { restore }),
  });
  const start = commandsOf(["create", "stop", "start"], imageSha256).at(-1) as VmCommand;
  await host.supervisor.submit(start);
  await restoring.promise;
  await host.supervisor.submit({ ...start, kind: "cancel", cancels: start.operationId });
  const isEnd = () =>
    host.seen.findLast(
      ({ operation, busyWith }) => operation?.id === start.operationId && busyWith === undefined,
    );
  const end = await until("its end", isEnd, LIMIT_MS);
  expect(end).toMatchObject({
    state: "stopped",
    operation: { outcome: "cancelled", error: { code: "OPERATION_CANCELLED" } },
  });
  expect(end.snapshot).toEqual(snapshot);
  expect(await offered(snapshot)).toMatchObject({ sandboxId: SANDBOX });
});

test("a disk whose name was not written into the record has the record's name again after the next operation", async () => {
  const { snapshot } = await bring("create", "stop");
  await writeFile(join(host.vm.dir, "disk.json"), JSON.stringify({ generation: 1, files: {} }));
  await expect(offered(snapshot)).rejects.toThrow("another name");
  const start = commandsOf(["create", "stop", "start"], imageSha256).at(-1) as VmCommand;
  // Without a fence on this host, no guarded run begins.
  const end = await host.complete({ ...start, spec: { ...start.spec, onHostLoss: "restore" } });
  expect(end).toMatchObject({
    state: "stopped",
    operation: { outcome: "cancelled" },
    snapshot: { generation: 1, storeKey: null },
  });
  expect(end.snapshot?.manifestSha256).not.toBe(snapshot?.manifestSha256);
  expect(await offered(end.snapshot)).toMatchObject({ sandboxId: SANDBOX });
});

test("what could not be brought here is not said to run, though a VM of a run that was given up is: the next try brings it", async () => {
  await bring("create", "pause");
  const { generation, storeKey, manifestSha256 } = await host.stored();
  await bring("create", "pause", "resume");
  const runs = { command: commands.at(-1), snapshot: { generation, storeKey, manifestSha256 } };
  const again = (opSeq: number) => ({
    ...(runs.command as VmCommand),
    epoch: opSeq,
    opSeq,
    operationId: newOperationId(),
    snapshot: runs.snapshot,
  });
  blobs.before = () => {
    throw new Error("the store is away");
  };
  const failed = await host.complete(again(4));
  expect(failed).toMatchObject({
    state: "paused",
    operation: { outcome: "failed", error: { code: "SNAPSHOT_UNAVAILABLE" } },
  });
  expect(failed.snapshot).toBeUndefined();
  blobs.before = () => {};
  expect(await host.complete(again(5))).toMatchObject({
    state: "running",
    operation: { outcome: "succeeded" },
  });
  expect(await host.guest("/files/read", { path: "/workspace/note" })).toMatchObject({
    content: "kept",
  });
});

test("a disk that could not be brought here has no name here: that of a run that was given up is none of the sandbox's", async () => {
  await bring("create", "stop");
  await host.supervisor.submit(replicate());
  const { generation, storeKey, manifestSha256 } = await host.stored();
  await bring("create", "stop", "start");
  blobs.before = () => {
    throw new Error("the store is away");
  };
  const again = {
    ...(commands.at(-1) as VmCommand),
    epoch: 4,
    opSeq: 4,
    operationId: newOperationId(),
  };
  const failed = await host.complete({
    ...again,
    snapshot: { generation, storeKey, manifestSha256 },
  });
  expect(failed).toMatchObject({
    state: "stopped",
    operation: { outcome: "failed", error: { code: "SNAPSHOT_UNAVAILABLE" } },
  });
  expect(failed.snapshot).toBeUndefined();
});
