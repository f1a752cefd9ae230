/**
 * A paused sandbox that moves from one host to another through the store, and whose first attempt
 * fails.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { SnapshotFacts, VmCommand } from "@torpor/contracts";
import { tempDir, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { driverNamed } from "./support/drivers.ts";
import { fileBlobs, WatchedBlobs } from "./support/snapshots.ts";
import { commandsOf, prepareImages, TestHost } from "./support/test-host.ts";

const LIMIT_MS = 45_000;
const driver = driverNamed("simulated");
let root: Awaited<ReturnType<typeof tempDir>>;
let imageSha256: string;
beforeAll(async () => {
  root = await tempDir();
  imageSha256 = await prepareImages(join(root.path, "images"), driver);
});
afterAll(async () => {
  await root[Symbol.asyncDispose]();
});

let made = 0;
let blobs: WatchedBlobs;
let home: TestHost;
let away: TestHost;
let snapshot: SnapshotFacts;
/** A sandbox that is paused at home, with a file in it, and stored. */
beforeEach(async () => {
  made += 1;
  blobs = new WatchedBlobs(fileBlobs(join(root.path, `store-${made}`)));
  [home, away] = [await hostIn(`home-${made}`), await hostIn(`away-${made}`)];
  const [create, pause] = commandsOf(["create", "pause"], imageSha256) as [VmCommand, VmCommand];
  await home.complete(create);
  await home.guest("/files/write", { path: "/workspace/note", content: "kept" });
  await home.complete(pause);
  const stored = () =>
    home.seen.findLast(({ snapshot: held }) => typeof held?.storeKey === "string")?.snapshot;
  snapshot = await until("the copy in the store", stored, LIMIT_MS);
  blobs.forget();
});
afterEach(async () => {
  for (const host of [home, away]) await host.end();
});

async function hostIn(name: string): Promise<TestHost> {
  await mkdir(join(root.path, name), { recursive: true });
  const host = new TestHost(
    join(root.path, name),
    driver,
    () => {},
    join(root.path, "images"),
    blobs,
  );
  await host.supervisor.adopt();
  return host;
}

/** The nth attempt to resume the sandbox elsewhere; each has its epoch. */
function resume(nth: number): VmCommand {
  const command = commandsOf(
    ["create", "pause", ...Array.from({ length: nth }, () => "resume" as const)],
    imageSha256,
  ).at(-1);
  if (command === undefined) throw new Error("there is a resume");
  const { generation, manifestSha256, storeKey } = snapshot;
  return { ...command, snapshot: { generation, manifestSha256, storeKey } };
}

const runsWithItsFile = async (host: TestHost) =>
  expect(await host.guest("/files/read", { path: "/workspace/note" })).toMatchObject({
    content: "kept",
  });

test("BR1: a fetch that has run out of time leaves what has arrived, and the next one gets the rest", async () => {
  const { held, restore } = holdChunksAfter(1);
  const first = resume(1);
  expect(await away.supervisor.submit(first)).toBe("journalled");
  await held;
  // As the control plane does after the deadline.
  await away.supervisor.submit({ ...first, kind: "cancel", cancels: first.operationId });
  const isEnd = () =>
    away.seen.findLast(
      ({ operation, busyWith }) => operation?.id === first.operationId && busyWith === undefined,
    );
  expect(await until("its end", isEnd)).toMatchObject({
    state: "failed",
    operation: { outcome: "cancelled" },
  });
  restore();
  const arrived = blobs.got();
  expect(arrived).toHaveLength(1);
  expect(await away.complete(resume(2))).toMatchObject({
    state: "running",
    operation: { outcome: "succeeded" },
  });
  expect(blobs.got().length, "there was more to get").toBeGreaterThan(1);
  expect(new Set(blobs.got()).size, "no chunk came twice").toBe(blobs.got().length);
  await runsWithItsFile(away);
});

test("a whole copy that was not let run is run by the next try, without another fetch", async () => {
  const first = resume(1);
  // Without a fence on this host, no guarded run begins.
  expect(
    await away.complete({ ...first, spec: { ...first.spec, onHostLoss: "restore" } }),
  ).toMatchObject({
    state: "paused",
    operation: { outcome: "cancelled" },
  });
  blobs.forget();
  expect(await away.complete(resume(2))).toMatchObject({
    state: "running",
    operation: { outcome: "succeeded" },
  });
  expect(blobs.got()).toEqual([]);
  await runsWithItsFile(away);
});

test("the old host, which is told nothing of a move that failed, goes on with the copy: to the store, and to run", async () => {
  const { epoch, opSeq, ...rest } = resume(1);
  const replicate = { ...rest, kind: "replicate", epoch, opSeq } as const;
  expect(epoch).toBeGreaterThan(home.seen.at(-1)?.epoch ?? epoch);
  expect(await home.supervisor.submit(replicate), "it is there").toBe("repeated");
  expect(home.seen.at(-1)).toMatchObject({
    state: "paused",
    snapshot: { storeKey: snapshot.storeKey },
  });
  expect(
    await home.supervisor.submit({ ...replicate, epoch: 1, opSeq: 1 }),
    "of before the pause",
  ).toBe("stale");
  expect(await home.complete(resume(2))).toMatchObject({
    state: "running",
    operation: { outcome: "succeeded" },
  });
  await runsWithItsFile(home);
});

/**
 * Lets this many chunks through; later ones hang until the fetch is aborted. `restore` lets all
 * through.
 */
function holdChunksAfter(count: number): { held: Promise<void>; restore: () => void } {
  const get = blobs.get.bind(blobs);
  const reached = Promise.withResolvers<void>();
  let given = 0;
  blobs.get = async (key, signal) => {
    if (key.includes("/chunks/")) {
      given += 1;
      if (given > count) {
        reached.resolve();
        if (!signal.aborted)
          await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
        signal.throwIfAborted();
      }
    }
    return await get(key, signal);
  };
  return { held: reached.promise, restore: () => void (blobs.get = get) };
}
