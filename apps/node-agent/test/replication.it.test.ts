/** A host that copies its sandboxes to the store: by itself after a pause, on demand when they are stopped, over its own restarts, and never in the way of a resume. */
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { newOperationId, type Observation, type VmCommand } from "@torpor/contracts";
import { tempDir, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { FileBlobs } from "../src/store/file-blobs.ts";
import { driverNamed } from "./support/drivers.ts";
import { WatchedBlobs } from "./support/snapshots.ts";
import { commandsOf, type Kind, prepareImages, SANDBOX, TestHost } from "./support/test-host.ts";
import { mountXfs } from "./support/xfs.ts";

const LIMIT_MS = 45_000;
const driver = driverNamed("simulated");
let root: Awaited<ReturnType<typeof tempDir>>;
let imageSha256: string;
let blobs: WatchedBlobs;
let dir: string;
let host: TestHost;
let commands: VmCommand[];
const ended = new AbortController();

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
  blobs = new WatchedBlobs(new FileBlobs(join(root.path, `store-${made}`)));
  dir = join(root.path, `host-${made}`);
  host = await hostIn(dir);
});
afterEach(async () => {
  blobs.before = () => {};
  await driver.end(host.vm, { graceMs: 0 });
});

async function hostIn(path: string): Promise<TestHost> {
  await mkdir(path, { recursive: true });
  const made = new TestHost(path, driver, () => {}, join(root.path, "images"), blobs);
  await made.supervisor.adopt();
  return made;
}

/** Carries out the commands from the first one on that is new. */
async function bring(...kinds: Kind[]): Promise<Observation> {
  const done = host.seen.length > 0 ? commands.length : 0;
  commands = commandsOf(kinds, imageSha256);
  let last: Observation | undefined;
  for (const command of commands.slice(done)) {
    last = await host.carryOut(command);
    if (command.kind === "create") await host.guest("/files/write", { path: "/workspace/note", content: "kept" });
  }
  if (last === undefined) throw new Error("there was nothing to do");
  return last;
}

const replicate = (given: Partial<VmCommand> = {}): VmCommand => {
  const last = commands.at(-1);
  if (last === undefined) throw new Error("nothing was done before");
  return { ...last, kind: "replicate", operationId: newOperationId(), ...given };
};
/** What it reported last, once that has a copy in the store. */
const storedOn = async (on: TestHost) => {
  const isStored = () => (typeof on.seen.at(-1)?.snapshot?.storeKey === "string" ? on.seen.at(-1)?.snapshot : undefined);
  return await until("the copy in the store", isStored, LIMIT_MS);
};

test("a stopped sandbox's disk is copied when it is asked for, and another host starts it with its files", async () => {
  const { snapshot } = await bring("create", "stop");
  expect(snapshot).toBeUndefined();
  expect(await host.supervisor.execute(replicate({ opSeq: 1 })), "of before the stop").toBe("stale");
  expect(blobs.calls).toEqual([]);
  expect(await host.supervisor.execute(replicate())).toBe("journalled");
  const stored = await storedOn(host);
  expect(stored).toMatchObject({ generation: 1, guestSynced: true });
  expect(host.seen.at(-1)).toMatchObject({ state: "stopped", opSeq: 2, snapshot: stored });
  expect(await host.supervisor.execute(replicate())).toBe("repeated");

  const other = await hostIn(join(root.path, `other-${made}`));
  const start = commandsOf(["create", "stop", "start"], imageSha256).at(-1);
  if (start === undefined) throw new Error("there is a start");
  const { generation, storeKey, manifestSha256 } = stored;
  try {
    expect(await other.carryOut({ ...start, snapshot: { generation, storeKey, manifestSha256 } })).toMatchObject({
      state: "running",
      operation: { outcome: "succeeded" },
    });
    expect(await other.guest("/files/read", { path: "/workspace/note" })).toMatchObject({ content: "kept" });
  } finally {
    await driver.end(other.vm, { graceMs: 0 });
  }
});

test("a copy that was not there when the agent ended is there after it has started again", async () => {
  blobs.before = (call, key) => {
    if (call === "put" && key.includes("/entries/")) throw new Error("the store is away");
  };
  await bring("create", "stop");
  await host.supervisor.execute(replicate());
  await until("an attempt", () => blobs.sent().length > 0, LIMIT_MS);
  endLoops(host);
  blobs.forget();
  host = await hostIn(dir);
  expect(await storedOn(host)).toMatchObject({ generation: 1 });
  expect(blobs.sent(), "they were there").toEqual([]);
});

test("S21: a resume does not wait for the copy, and the next pause sends only what has changed", async () => {
  const { held, release } = holdEntries();
  await bring("create", "pause");
  await held;
  expect(await bring("create", "pause", "resume")).toMatchObject({ state: "running", operation: { outcome: "succeeded" } });
  release();
  expect(await bring("create", "pause", "resume", "pause")).toMatchObject({ state: "paused", operation: { outcome: "succeeded" } });
  expect(await storedOn(host)).toMatchObject({ generation: 2 });
  const sent = blobs.sent();
  expect(sent.length).toBeGreaterThan(0);
  expect(new Set(sent).size).toBe(sent.length);
});

test("a store that stays away is said with its reason, and asked again on demand", { timeout: 120_000 }, async () => {
  const away = () => {
    throw new Error("no route to the store");
  };
  blobs.before = away;
  await bring("create", "pause");
  const failed = await until("the failure", () => host.seen.find(({ replicationFailed }) => replicationFailed !== undefined), 90_000);
  expect(failed).toMatchObject({ state: "paused", snapshot: { storeKey: null }, replicationFailed: { code: "REPLICATION_FAILED" } });
  expect(failed.replicationFailed?.message).toContain("no route to the store");
  blobs.forget();
  expect(await host.supervisor.execute(replicate())).toBe("journalled");
  await storedOn(host);
  expect(host.seen.at(-1)?.replicationFailed).toBeUndefined();
});

test("how far it is stands in the inventory, and a delete ends it", async () => {
  await bring("create", "stop");
  await host.supervisor.execute(replicate({ maxBytesPerSecond: 1 }));
  const seen = await until("progress", () => host.supervisor.inventory().find(({ replicating }) => replicating !== undefined), LIMIT_MS);
  expect(seen.replicating?.bytesTotal).toBeGreaterThan(0);
  expect(await bring("create", "stop", "delete")).toMatchObject({ state: "deleted" });
  expect(host.supervisor.inventory()).toEqual([]);
  const left: string[] = [];
  for await (const { key } of blobs.list(`${SANDBOX}/`, ended.signal)) left.push(key);
  expect(left).toEqual([]);
});

test("another host gets a paused sandbox straight from this one; one that runs is given to nobody", async () => {
  const { snapshot } = await bring("create", "pause");
  if (snapshot === undefined) throw new Error("the pause left no snapshot");
  const { generation, manifestSha256 } = snapshot;
  expect(await host.supervisor.offer(SANDBOX, generation, manifestSha256)).toMatchObject({ sandboxId: SANDBOX, generation });
  expect(await host.supervisor.offer(SANDBOX, generation, "0".repeat(64))).toBeUndefined();
  expect(await host.supervisor.offer(SANDBOX, generation + 1, manifestSha256)).toBeUndefined();
  await bring("create", "pause", "resume");
  expect(await host.supervisor.offer(SANDBOX, generation, manifestSha256)).toBeUndefined();
});

test("where the file system shares blocks the copy goes on while the sandbox runs, and is what was paused", async (context) => {
  const xfs = await mountXfs();
  if (xfs === undefined) return context.skip("mkfs.xfs is missing, or this user may not mount");
  const other = await hostIn(join(root.path, `other-${made}`));
  try {
    host = await hostIn(join(xfs.path, "host"));
    const { held, release } = holdEntries();
    const { snapshot } = await bring("create", "pause");
    await held;
    expect(await bring("create", "pause", "resume")).toMatchObject({ state: "running" });
    await host.guest("/files/write", { path: "/workspace/later", content: "not in the snapshot" });
    await host.guest("/files/write", { path: "/workspace/note", content: "changed" });
    release();
    const stored = await storedOn(host);
    expect(stored).toMatchObject({ generation: 1, manifestSha256: snapshot?.manifestSha256 });
    expect(host.seen.at(-1)).toMatchObject({ state: "running", snapshot: stored });
    await until("the frozen copy is gone", async () => (await readdir(host.vm.dir)).every((name) => !name.startsWith("frozen.")), LIMIT_MS);

    const resume = commandsOf(["create", "pause", "resume"], imageSha256).at(-1);
    if (resume === undefined) throw new Error("there is a resume");
    const { generation, storeKey, manifestSha256 } = stored;
    expect(await other.carryOut({ ...resume, snapshot: { generation, storeKey, manifestSha256 } })).toMatchObject({ state: "running" });
    expect(await other.guest("/files/read", { path: "/workspace/note" })).toMatchObject({ content: "kept" });
    expect(await other.guest("/files/read", { path: "/workspace/later" })).not.toMatchObject({ content: "not in the snapshot" });
  } finally {
    await driver.end(other.vm, { graceMs: 0 });
    await driver.end(host.vm, { graceMs: 0 });
    await xfs[Symbol.asyncDispose]();
  }
});

test("a frozen copy that was not stored when the agent ended is gone on with, though the sandbox runs", async (context) => {
  const xfs = await mountXfs();
  if (xfs === undefined) return context.skip("mkfs.xfs is missing, or this user may not mount");
  try {
    const path = join(xfs.path, "host");
    host = await hostIn(path);
    const { held, release } = holdEntries();
    await bring("create", "pause");
    await held;
    await bring("create", "pause", "resume");
    endLoops(host);
    release();
    host = await hostIn(path);
    expect(await storedOn(host)).toMatchObject({ generation: 1 });
  } finally {
    await driver.end(host.vm, { graceMs: 0 });
    await xfs[Symbol.asyncDispose]();
  }
});

/** Puts get as far as their last step, and wait there for `release`, or their end. */
function holdEntries(): { held: Promise<void>; release: () => void } {
  const put = blobs.put.bind(blobs);
  const [reached, released] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  blobs.put = async (key, content, signal) => {
    if (key.includes("/entries/")) {
      reached.resolve();
      const aborted = new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      if (!signal.aborted) await Promise.race([released.promise, aborted]);
      signal.throwIfAborted();
    }
    await put(key, content, signal);
  };
  return { held: reached.promise, release: released.resolve };
}

/** What a process leaves when it ends: nothing goes on. */
function endLoops(ending: TestHost): void {
  const stopped = new AbortController();
  const watching = ending.supervisor.watch(stopped.signal);
  stopped.abort();
  void watching;
}
