/**
 * The end of a host's process. Once the host is closed it writes nothing more, whatever was in
 * progress, and the next process continues from its files.
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { mkdir, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { VmCommand } from "@torpor/contracts";
import { tempDir, until } from "@torpor/testkit";
import { afterEach, beforeEach, expect, test } from "vitest";
import { DURABLE_STEP_CHANNEL, type DurableStep } from "../src/host/durable-step.ts";
import { FileBlobs } from "../src/store/file-blobs.ts";
import { driverNamed } from "./support/drivers.ts";
import {
  commandsOf,
  type Kind,
  prepareImages,
  TestHost,
  vmmProcesses,
} from "./support/test-host.ts";

const QUIET_MS = 300;
const SHORT_LIMIT_MS = 200;
const driver = driverNamed("simulated");
let root: Awaited<ReturnType<typeof tempDir>>;
let dir: string;
let imageSha256: string;
let store: SlowBlobs;
let host: TestHost;

/**
 * A store below the host's own directory. Its puts cannot be aborted: they wait for `release`, and
 * then write.
 */
class SlowBlobs extends FileBlobs {
  readonly waiting: string[] = [];
  private readonly released = Promise.withResolvers<void>();
  readonly release = this.released.resolve;

  override async put(key: string, content: Uint8Array): Promise<void> {
    this.waiting.push(key);
    await this.released.promise;
    await super.put(key, content, new AbortController().signal);
  }
}

beforeEach(async () => {
  root = await tempDir();
  dir = join(root.path, "host");
  await mkdir(join(dir, "store"), { recursive: true });
  imageSha256 = await prepareImages(join(root.path, "images"), driver);
  store = new SlowBlobs(join(dir, "store"));
  host = new TestHost(dir, driver, undefined, undefined, store);
  await host.supervisor.adopt();
});
afterEach(async () => {
  store.release();
  await host.end();
  // Throws if the host still writes there.
  await root[Symbol.asyncDispose]();
});

const commands = (...kinds: Kind[]) =>
  commandsOf(kinds, imageSha256) as [VmCommand, ...VmCommand[]];

/** Every path below the host's directory, with the time of its last write. */
async function written(): Promise<string[]> {
  const names = await readdir(dir, { recursive: true });
  return await Promise.all(
    names.map(async (name) => `${name} ${(await stat(join(dir, name))).mtimeMs}`),
  );
}

async function expectQuiet(): Promise<void> {
  const before = await written();
  await sleep(QUIET_MS);
  expect(await written()).toEqual(before);
}

test("a copy to the store that is under way is waited for; the close says when something goes on longer than it may wait", async () => {
  for (const command of commands("create", "pause")) await host.complete(command);
  await until("the copy begins", () => store.waiting.length > 0);
  expect(await host.supervisor.close(SHORT_LIMIT_MS)).toBe(false);
  store.release();
  await host.close();
  await expectQuiet();
  expect(store.waiting, "no chunk was begun").toHaveLength(1);
});

test("TU1: an operation that goes on is ended; one that waits behind it was not taken, and the next process takes it", async () => {
  const [create, pause] = commands("create", "pause") as [VmCommand, VmCommand];
  const [asked, answer] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  host.onCommit = async () => {
    asked.resolve();
    await answer.promise;
  };
  expect(await host.supervisor.submit(create)).toBe("journalled");
  await asked.promise;
  const waits = host.supervisor.submit(pause);
  const closed = host.supervisor.close(30_000);
  expect(await waits, "though the create goes on").toBe("closing");
  expect(await host.supervisor.submit(pause)).toBe("closing");
  answer.resolve();
  expect(await closed).toBe(true);
  expect(host.seen.at(-1)).toMatchObject({
    state: "running",
    operation: { id: create.operationId, outcome: "succeeded" },
  });
  await expectQuiet();

  store.release();
  host = new TestHost(dir, driver, undefined, undefined, store);
  await host.supervisor.adopt();
  expect(await host.complete(pause)).toMatchObject({
    state: "paused",
    operation: { outcome: "succeeded" },
  });
});

test("an operation that was journalled and not begun is carried out by the next process", async () => {
  const [create, stop] = commands("create", "stop") as [VmCommand, VmCommand];
  await host.complete(create);
  const closed = Promise.withResolvers<boolean>();
  const closeAtJournal = (message: unknown) => {
    const { name, when } = message as DurableStep;
    if (name.includes("op.json") && when === "after") closed.resolve(host.supervisor.close(30_000));
  };
  subscribe(DURABLE_STEP_CHANNEL, closeAtJournal);
  try {
    expect(await host.supervisor.submit(stop)).toBe("journalled");
    expect(await closed.promise).toBe(true);
  } finally {
    unsubscribe(DURABLE_STEP_CHANNEL, closeAtJournal);
  }
  expect(host.supervisor.inventory()).toMatchObject([
    { state: "running", busyWith: stop.operationId },
  ]);
  expect(vmmProcesses(dir)).toHaveLength(1);

  host = new TestHost(dir, driver, undefined, undefined, store);
  await host.supervisor.adopt();
  const ended = () =>
    host.supervisor
      .inventory()
      .find(({ state, busyWith }) => state === "stopped" && busyWith === undefined);
  expect(await until("the stop has ended", ended)).toMatchObject({
    operation: { id: stop.operationId, outcome: "succeeded" },
  });
});

test("SB1: an operation whose result cannot be written ends when it can be; until then its host is busy with it, and can be closed", async () => {
  const [create, pause, resume] = commands("create", "pause", "resume") as [
    VmCommand,
    VmCommand,
    VmCommand,
  ];
  await host.complete(create);
  const write = host.store.write.bind(host.store);
  const full = (times: number) => {
    const reached = Promise.withResolvers<void>();
    let failed = 0;
    host.store.write = async (record) => {
      failed += 1;
      if (failed > times) return await write(record);
      reached.resolve();
      throw new Error("ENOSPC: no space left on device");
    };
    return reached.promise;
  };
  void full(2);
  expect(await host.complete(pause)).toMatchObject({
    state: "paused",
    operation: { outcome: "succeeded" },
  });
  store.release();

  const reached = full(Infinity);
  expect(await host.supervisor.submit(resume)).toBe("journalled");
  await reached;
  expect(host.supervisor.inventory()).toMatchObject([{ busyWith: resume.operationId }]);
  await host.close();
  host = new TestHost(dir, driver, undefined, undefined, store);
  await host.supervisor.adopt();
  const ended = () =>
    host.supervisor
      .inventory()
      .find(({ state, busyWith }) => state === "running" && busyWith === undefined);
  expect(await until("the resume has ended", ended)).toMatchObject({
    operation: { id: resume.operationId, outcome: "succeeded" },
  });
});
