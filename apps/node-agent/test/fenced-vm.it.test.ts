/**
 * The agent's treatment of a VM that the fence has frozen, and the cases in which no VM may begin.
 * The fence is a separate process; the VMs are simulated.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { OperationId, VmCommand } from "@torpor/contracts";
import { isAlive, type ProcessIdentity, stateOf } from "@torpor/service/processes";
import { tempDir, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { SimulatedDriver } from "../src/drivers/simulated/simulated.ts";
import { bootMs } from "../src/fence/clock.ts";
import { FenceFiles } from "../src/fence/files.ts";
import {
  commandsOf,
  type Kind,
  killVmms,
  prepareImages,
  SANDBOX,
  TestHost,
  vmmProcesses,
} from "./support/test-host.ts";

const FENCE = fileURLToPath(new URL("../src/fence/main.ts", import.meta.url));
const LONG_MS = 600_000;
const SOME_LOOKS_MS = 1_500;

let root: Awaited<ReturnType<typeof tempDir>>;
let imageSha256: string;
let dir: string;
let files: FenceFiles;
let fence: ChildProcess;
let hosts = 0;
const opened: TestHost[] = [];

beforeAll(async () => {
  root = await tempDir();
  imageSha256 = await prepareImages(join(root.path, "images"), new SimulatedDriver());
});
afterAll(async () => {
  await root[Symbol.asyncDispose]();
});
beforeEach(async () => {
  hosts += 1;
  dir = join(root.path, `host-${hosts}`);
  await mkdir(dir);
  files = new FenceFiles(dir);
  fence = spawn(process.execPath, [FENCE], {
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, DATA_DIR: dir },
  });
  await until("the fence lives", () => files.isFenceAlive());
});
afterEach(async () => {
  const exited = once(fence, "exit");
  fence.kill("SIGKILL");
  await exited;
  await killVmms(vmmProcesses(dir));
  for (const host of opened.splice(0)) await host.close();
});

const commands = (...kinds: Kind[]): VmCommand[] =>
  commandsOf(kinds, imageSha256).map((command) => ({
    ...command,
    spec: { ...command.spec, onHostLoss: "restore" },
  }));
const at = (all: VmCommand[], index: number): VmCommand => {
  const command = all[index];
  if (command === undefined) throw new Error("there are fewer commands");
  return command;
};
async function openHost(): Promise<TestHost> {
  const host = new TestHost(dir, new SimulatedDriver());
  opened.push(host);
  await host.supervisor.adopt();
  await host.fence.open();
  return host;
}
function theVmm(): ProcessIdentity {
  const [vmm, ...others] = vmmProcesses(dir);
  if (vmm === undefined || others.length > 0) throw new Error(`${others.length + 1} VMMs run`);
  return vmm;
}
async function endLease(): Promise<void> {
  await files.writeLease({ sinceBootMs: 0, untilBootMs: bootMs() });
  await until("the VM is frozen", async () => (await files.readFrozen(SANDBOX)) !== undefined);
}

describe("a VM that was frozen", () => {
  test("FE3: is not set free by an agent that starts anew; what is asked of it waits until it is permitted, and finds its memory", async () => {
    const [create, pause] = [
      at(commands("create", "pause"), 0),
      at(commands("create", "pause"), 1),
    ];
    const first = await openHost();
    await first.fence.renew(bootMs(), LONG_MS);
    await first.complete(create);
    await first.guest("/execute", { code: "x = 42" });
    const vmm = theVmm();
    await endLease();
    expect(stateOf(vmm)).toBe("T");

    await first.close();
    const next = await openHost();
    void next.supervisor.watch();
    expect(await next.supervisor.submit(pause)).toBe("journalled");
    await new Promise((resolve) => setTimeout(resolve, SOME_LOOKS_MS));
    expect(stateOf(vmm)).toBe("T");
    expect(next.supervisor.inventory()).toMatchObject([
      { state: "running", epoch: 1, busyWith: pause.operationId },
    ]);

    await next.fence.renew(bootMs(), LONG_MS);
    await new Promise((resolve) => setTimeout(resolve, SOME_LOOKS_MS));
    expect(stateOf(vmm), "a lease alone sets nothing free").toBe("T");
    const frozen = await files.readFrozen(SANDBOX);
    const lease = await files.readLease();
    if (frozen === undefined || lease === undefined)
      throw new Error("nothing is frozen, or there is no lease");
    await files.writePermit({ ...frozen, sinceBootMs: lease.sinceBootMs });
    const ended = await until("the pause ends", () =>
      next.seen.find(({ operation }) => operation?.id === pause.operationId),
    );
    expect(ended).toMatchObject({ state: "paused", operation: { outcome: "succeeded" } });
    expect(isAlive(vmm)).toBe(false);
  });

  test("is ended where it stands when its sandbox has gone on elsewhere, and not before", async () => {
    const host = await openHost();
    await host.fence.renew(bootMs(), LONG_MS);
    const [create, pause] = [
      at(commands("create", "pause"), 0),
      at(commands("create", "pause"), 1),
    ];
    await host.complete(create);
    const vmm = theVmm();
    await endLease();
    // The pause waits for the VM, and yields to the discard.
    await host.supervisor.submit(pause);
    const discard: VmCommand = {
      ...create,
      kind: "discard",
      operationId: `op_${"f".repeat(32)}` as OperationId,
    };
    expect(await host.supervisor.submit({ ...discard, epoch: 2 })).toBe("journalled");
    await until("it is ended", () => !isAlive(vmm));
    await until("it is reported", () => host.seen.some(({ state }) => state === "deleted"));
    await until("it is forgotten", async () => (await files.readFrozen(SANDBOX)) === undefined);
  });
});

describe("a VM that may be restored elsewhere", () => {
  test("does not begin to run without a lease, or without a fence; one that waits for its host does", async () => {
    const host = await openHost();
    const [create] = commands("create");
    if (create === undefined) throw new Error("there is no command");
    expect(await host.complete(create)).toMatchObject({
      state: "failed",
      operation: { error: { message: expect.stringContaining("lease has ended") as string } },
    });
    await host.fence.renew(bootMs(), LONG_MS);
    fence.kill("SIGSTOP");
    await until("the fence is known to be dead", async () => !(await files.isFenceAlive()));
    const again = {
      ...create,
      opSeq: 2,
      operationId: `op_${"2".padStart(32, "0")}` as OperationId,
    };
    expect(await host.complete(again)).toMatchObject({
      state: "failed",
      operation: { error: { message: expect.stringContaining("no fence") as string } },
    });
    expect(vmmProcesses(dir)).toEqual([]);
    const waits: VmCommand = {
      ...again,
      opSeq: 3,
      operationId: `op_${"3".padStart(32, "0")}` as OperationId,
      spec: { ...create.spec, onHostLoss: "wait" },
    };
    expect(await host.complete(waits)).toMatchObject({ state: "running" });
    fence.kill("SIGCONT");
    await endLeaseUnfrozen();
    expect(stateOf(theVmm())).not.toBe("T");
  });

  test("its resume backs out when the lease ends while it asks, and the snapshot is untouched", async () => {
    const host = await openHost();
    await host.fence.renew(bootMs(), LONG_MS);
    const all = commands("create", "pause", "resume", "resume");
    await host.complete(at(all, 0));
    await host.guest("/execute", { code: "x = 42" });
    await host.complete(at(all, 1));
    host.onCommit = async () => {
      await files.writeLease({ sinceBootMs: 0, untilBootMs: bootMs() });
      await host.fence.open();
    };
    expect(await host.complete(at(all, 2))).toMatchObject({
      state: "paused",
      operation: { outcome: "cancelled" },
    });
    expect(vmmProcesses(dir)).toEqual([]);
    host.onCommit = async () => {};
    await host.fence.renew(bootMs(), LONG_MS);
    expect(await host.complete(at(all, 3))).toMatchObject({ state: "running" });
    expect(await host.guest("/execute", { code: "print(x)" })).toMatchObject({ stdout: "42\n" });
  });
});

async function endLeaseUnfrozen(): Promise<void> {
  await files.writeLease({ sinceBootMs: 0, untilBootMs: bootMs() });
  await new Promise((resolve) => setTimeout(resolve, SOME_LOOKS_MS));
}
