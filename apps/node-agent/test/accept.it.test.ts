/**
 * Commands that a host accepts, and when it acknowledges one (SV1, SV2 of
 * lifecycle/command-runner.ts).
 */
import { mkdir, readdir, rmdir } from "node:fs/promises";
import { join } from "node:path";
import type { VmCommand } from "@torpor/contracts";
import { tempDir } from "@torpor/testkit";
import { afterEach, beforeEach, expect, test } from "vitest";
import { driverNamed } from "./support/drivers.ts";
import { commandsOf, prepareImages, SANDBOX, TestHost, vmmProcesses } from "./support/test-host.ts";

const driver = driverNamed("simulated");
let root: Awaited<ReturnType<typeof tempDir>>;
let dir: string;
let host: TestHost;
let create: VmCommand;
let pause: VmCommand;
let resume: VmCommand;

beforeEach(async () => {
  root = await tempDir();
  dir = join(root.path, "host");
  await mkdir(dir);
  const imageSha256 = await prepareImages(join(root.path, "images"), driver);
  [create, pause, resume] = commandsOf(["create", "pause", "resume"], imageSha256) as [
    VmCommand,
    VmCommand,
    VmCommand,
  ];
  host = new TestHost(dir, driver, undefined, undefined, "none");
  await host.supervisor.adopt();
});
afterEach(async () => {
  await host.end();
  await root[Symbol.asyncDispose]();
});

test("a command of an earlier epoch is stale, and so is one of a lower number", async () => {
  await host.bring([create, pause, resume]);
  const vmms = vmmProcesses(dir);
  expect(vmms).toHaveLength(1);
  const late: VmCommand[] = [
    pause,
    { ...pause, epoch: resume.epoch - 1, opSeq: resume.opSeq + 1 },
    { ...pause, epoch: resume.epoch, opSeq: resume.opSeq - 1 },
  ];
  for (const command of late) {
    const order = `epoch ${command.epoch}, number ${command.opSeq}`;
    expect(await host.supervisor.submit(command), order).toBe("stale");
  }
  expect(await readdir(host.vm.dir)).not.toContain("op.json");
  expect(vmmProcesses(dir)).toEqual(vmms);
  expect(host.seen.at(-1)).toMatchObject({
    state: "running",
    epoch: resume.epoch,
    opSeq: resume.opSeq,
  });
  expect(await host.supervisor.route(SANDBOX, resume.epoch - 1), "the way to it").toBeUndefined();
  expect(await host.supervisor.route(SANDBOX, resume.epoch)).toBeDefined();
});

test("a command that cannot be journalled is not acknowledged, and not known", async () => {
  await host.bring([create]);
  const inTheWay = join(host.vm.dir, "op.json.tmp");
  await mkdir(inTheWay);
  await expect(host.supervisor.submit(pause)).rejects.toThrow("EISDIR");
  const [seen] = host.supervisor.inventory();
  expect(seen).toMatchObject({ state: "running", opSeq: create.opSeq });
  expect(seen?.busyWith).toBeUndefined();
  await rmdir(inTheWay);
  expect(await host.complete(pause)).toMatchObject({
    state: "paused",
    operation: { id: pause.operationId, outcome: "succeeded" },
  });
});
