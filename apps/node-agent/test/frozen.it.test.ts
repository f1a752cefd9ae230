/**
 * Copies to the store on a file system that shares blocks: a clone is read, whatever happens to the
 * sandbox and the host's process meanwhile.
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { newOperationId, type Observation, type VmCommand } from "@torpor/contracts";
import { tempDir, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { DURABLE_STEP_CHANNEL, type DurableStep } from "../src/host/durable-step.ts";
import { driverNamed } from "./support/drivers.ts";
import { fileBlobs, holdEntries, WatchedBlobs } from "./support/snapshots.ts";
import {
  commandsOf,
  type Kind,
  killVmms,
  prepareImages,
  TestHost,
  vmmProcesses,
} from "./support/test-host.ts";
import { mountXfs } from "./support/xfs.ts";

const LIMIT_MS = 45_000;
const QUIET_MS = 300;
const driver = driverNamed("simulated");
let root: Awaited<ReturnType<typeof tempDir>>;
let imageSha256: string;
let made = 0;
let blobs: WatchedBlobs;
let host: TestHost;
let xfs: Awaited<ReturnType<typeof mountXfs>>;
/** On a file system that shares blocks. */
let hostDir: string;
const opened: TestHost[] = [];

beforeAll(async () => {
  root = await tempDir();
  imageSha256 = await prepareImages(join(root.path, "images"), driver);
});
afterAll(async () => {
  await root[Symbol.asyncDispose]();
});
beforeEach(async (context) => {
  made += 1;
  blobs = new WatchedBlobs(fileBlobs(join(root.path, `store-${made}`)));
  xfs = await mountXfs();
  if (xfs === undefined) return context.skip("mkfs.xfs is missing, or this user may not mount");
  hostDir = join(xfs.path, "host");
});
afterEach(async () => {
  blobs.before = () => {};
  for (const one of opened.splice(0)) await one.end();
  await xfs?.[Symbol.asyncDispose]();
});

async function hostIn(path: string): Promise<TestHost> {
  await mkdir(path, { recursive: true });
  const one = new TestHost(path, driver, () => {}, join(root.path, "images"), blobs);
  opened.push(one);
  await one.supervisor.adopt();
  return one;
}

const bring = (...kinds: Kind[]): Promise<Observation> =>
  host.bring(commandsOf(kinds, imageSha256));

test("RE1: where the file system shares blocks the copy goes on while the sandbox runs, and is what was paused", async () => {
  const other = await hostIn(join(root.path, `other-${made}`));
  host = await hostIn(hostDir);
  const { held, release } = holdEntries(blobs);
  const { snapshot } = await bring("create", "pause");
  await held;
  expect(await bring("create", "pause", "resume")).toMatchObject({ state: "running" });
  await host.guest("/files/write", { path: "/workspace/later", content: "not in the snapshot" });
  await host.guest("/files/write", { path: "/workspace/note", content: "changed" });
  release();
  const stored = await host.stored();
  expect(stored).toMatchObject({ generation: 1, manifestSha256: snapshot?.manifestSha256 });
  expect(host.seen.at(-1)).toMatchObject({ state: "running", snapshot: stored });
  await until(
    "the frozen copy is gone",
    async () => (await readdir(host.vm.dir)).every((name) => !name.startsWith("frozen.")),
    LIMIT_MS,
  );

  const resume = commandsOf(["create", "pause", "resume"], imageSha256).at(-1);
  if (resume === undefined) throw new Error("there is a resume");
  const { generation, storeKey, manifestSha256 } = stored;
  expect(
    await other.complete({ ...resume, snapshot: { generation, storeKey, manifestSha256 } }),
  ).toMatchObject({ state: "running" });
  expect(await other.guest("/files/read", { path: "/workspace/note" })).toMatchObject({
    content: "kept",
  });
  expect(await other.guest("/files/read", { path: "/workspace/later" })).not.toMatchObject({
    content: "not in the snapshot",
  });
});

test("a frozen copy that was not stored when the agent ended is gone on with, though the sandbox runs", async () => {
  host = await hostIn(hostDir);
  const { held, release } = holdEntries(blobs);
  await bring("create", "pause");
  await held;
  await bring("create", "pause", "resume");
  await host.close();
  release();
  host = await hostIn(hostDir);
  expect(await host.stored()).toMatchObject({ generation: 1 });
});

test("so is one whose resume was taken up by the next process", async () => {
  const closing = Promise.withResolvers<boolean>();
  const closeAtJournal = (message: unknown) => {
    const { name, when } = message as DurableStep;
    if (name.includes("op.json") && when === "after")
      closing.resolve(host.supervisor.close(LIMIT_MS));
  };
  try {
    host = await hostIn(hostDir);
    const { held, release } = holdEntries(blobs);
    await bring("create", "pause");
    await held;
    const resume = commandsOf(["create", "pause", "resume"], imageSha256).at(-1) as VmCommand;
    subscribe(DURABLE_STEP_CHANNEL, closeAtJournal);
    expect(await host.supervisor.submit(resume)).toBe("journalled");
    expect(await closing.promise).toBe(true);
    unsubscribe(DURABLE_STEP_CHANNEL, closeAtJournal);
    release();
    host = await hostIn(hostDir);
    expect(await host.stored()).toMatchObject({ generation: 1 });
    expect(host.seen.at(-1)).toMatchObject({
      state: "running",
      operation: { id: resume.operationId, outcome: "succeeded" },
    });
  } finally {
    unsubscribe(DURABLE_STEP_CHANNEL, closeAtJournal);
  }
});

test("so is one that was stored when the agent ended, and nobody had heard of it", async () => {
  const [asked, answer] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  try {
    host = await hostIn(hostDir);
    const { held, release } = holdEntries(blobs);
    await bring("create", "pause");
    await held;
    host.onCommit = async () => {
      asked.resolve();
      await answer.promise;
    };
    const resume = commandsOf(["create", "pause", "resume"], imageSha256).at(-1) as VmCommand;
    await host.supervisor.submit(resume);
    await asked.promise;
    release();
    await until(
      "the copy has ended",
      () => host.supervisor.inventory()[0]?.replicating === undefined,
      LIMIT_MS,
    );
    const closed = host.supervisor.close(LIMIT_MS);
    answer.resolve();
    expect(await closed).toBe(true);
    expect(host.seen.at(-1)).toMatchObject({ state: "running" });
    host = await hostIn(hostDir);
    expect(await host.stored()).toMatchObject({ generation: 1 });
  } finally {
    answer.resolve();
  }
});

test("a copy keeps to its limit when its sandbox runs on", async () => {
  host = await hostIn(hostDir);
  const [create, pause, resume] = commandsOf(["create", "pause", "resume"], imageSha256) as [
    VmCommand,
    VmCommand,
    VmCommand,
  ];
  await host.complete(create);
  const [reached, released] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  blobs.before = async (call, key) => {
    if (call !== "put" || !key.includes("/chunks/")) return;
    reached.resolve();
    await released.promise;
  };
  await host.complete({ ...pause, maxBytesPerSecond: 1 });
  await reached.promise;
  expect(await host.complete(resume)).toMatchObject({ state: "running" });
  released.resolve();
  await until("the first is there", () => blobs.sent().length > 0, LIMIT_MS);
  await sleep(QUIET_MS);
  expect(blobs.sent(), "the second waits for the first one's bytes").toHaveLength(1);
});

test("a VMM that dies after its snapshot was stored: what is offered, and copied on demand, is the disk as it is now", async () => {
  host = await hostIn(hostDir);
  const { held, release } = holdEntries(blobs);
  await bring("create", "pause");
  await held;
  await bring("create", "pause", "resume");
  release();
  const { manifestSha256 } = await host.stored();
  void host.supervisor.watch();
  await killVmms(vmmProcesses(hostDir));
  const { snapshot } = await until("its end is noticed", () =>
    host.seen.findLast(({ state }) => state === "stopped"),
  );
  expect(snapshot).toMatchObject({ generation: 2, storeKey: null });
  expect(snapshot?.manifestSha256).not.toBe(manifestSha256);
  const resume = commandsOf(["create", "pause", "resume"], imageSha256).at(-1) as VmCommand;
  const replicate = { ...resume, kind: "replicate", operationId: newOperationId() } as const;
  expect(await host.supervisor.submit(replicate)).toBe("journalled");
  expect(await host.stored()).toMatchObject({
    generation: 2,
    manifestSha256: snapshot?.manifestSha256,
  });
});
