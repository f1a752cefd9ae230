/** VMs that are kept warm, on hosts with simulated VMs (decision 41). */
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { VmCommand } from "@torpor/contracts";
import { isAlive, type ProcessIdentity } from "@torpor/service";
import { tempDir } from "@torpor/testkit";
import { until } from "@torpor/testkit/basics";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { readJson } from "../src/host/files.ts";
import { driverNamed } from "./support/drivers.ts";
import { loseHost } from "./support/lost-host.ts";
import { callGuest, commandsOf, killVmms, prepareImages, TestHost } from "./support/test-host.ts";

const MEMORY_MIB = 8;
/** For so many VMs. */
const roomFor = (count: number) => count * MEMORY_MIB;
const driver = driverNamed("simulated");

let root: Awaited<ReturnType<typeof tempDir>>;
let imageSha256: string;
beforeAll(async () => {
  root = await tempDir();
  imageSha256 = await prepareImages(join(root.path, "images"), driver, MEMORY_MIB);
});
afterAll(async () => {
  await root[Symbol.asyncDispose]();
});

let made = 0;
const newDir = () => join(root.path, `host-${(made += 1)}`);

interface Run extends ProcessIdentity {
  epoch?: number;
}

/** VMMs of directories of that kind, by directory. */
async function vmms(dir: string, kind: "vm" | "warm"): Promise<Map<string, Run>> {
  const found = new Map<string, Run>();
  for (const name of await readdir(join(dir, kind)).catch(() => [])) {
    const run = await readJson<Run>(join(dir, kind, name, "run.json"));
    if (run !== undefined && isAlive(run)) found.set(name, run);
  }
  return found;
}

async function endAll(dir: string): Promise<void> {
  for (const kind of ["vm", "warm"] as const) await killVmms([...(await vmms(dir, kind)).values()]);
}

async function hostIn(dir: string, max: number, room: number): Promise<TestHost> {
  const warm = { max, memoryMib: roomFor(room) };
  const host = new TestHost(dir, driver, undefined, undefined, undefined, 2, warm);
  await host.supervisor.adopt();
  void host.supervisor.watch();
  onTestFinished(async () => {
    await host.close();
    await endAll(dir);
  });
  return host;
}

/** As the command of another sandbox. */
const ofSandbox = (command: VmCommand, at: number): VmCommand => ({
  ...command,
  operationId: `op_${String(at).padStart(32, "0")}`,
  spec: { ...command.spec, sandboxId: `179549079${at}abcdefgh`.slice(0, 18) },
});

const createOf = (at: number) => {
  const [command] = commandsOf(["create"], imageSha256, MEMORY_MIB);
  if (command === undefined) throw new Error("no command");
  return ofSandbox(command, at);
};

const kept = async (host: TestHost, count: number) =>
  await until(`${count} warm VMs`, async () =>
    host.supervisor.warmVms() === count && (await vmms(host.store.dataDir, "warm")).size === count
      ? true
      : undefined,
  );

const timingsOf = (host: TestHost, { operationId }: VmCommand) =>
  host.seen.findLast(({ operation }) => operation?.id === operationId)?.timingsMs ?? {};

test("a create takes the VM that was kept, once, and the next one is made in its place", async () => {
  const host = await hostIn(newDir(), 1, 9);
  const dir = host.store.dataDir;
  const first = createOf(1);
  expect((await host.carryOut(first)).state).toBe("running");
  expect(timingsOf(host, first), "none was kept yet").toHaveProperty("restore");
  await kept(host, 1);
  const [[, warm] = []] = await vmms(dir, "warm");
  const [second, third] = [createOf(2), createOf(3)];
  const ended = await Promise.all([host.carryOut(second), host.carryOut(third)]);
  expect(ended.map(({ state }) => state)).toEqual(["running", "running"]);
  const running = await vmms(dir, "vm");
  expect(running.size).toBe(3);
  expect(new Set([...running.values()].map(({ pid }) => pid)).size, "no VMM is two's").toBe(3);
  const taker = [...running].filter(([, { pid }]) => pid === warm?.pid).map(([id]) => id);
  expect(taker).toHaveLength(1);
  for (const command of [second, third]) {
    const { sandboxId } = command.spec;
    const isTaker = taker[0] === sandboxId;
    expect(running.get(sandboxId)?.epoch).toBe(1);
    expect("assign" in timingsOf(host, command)).toBe(isTaker);
    expect("restore" in timingsOf(host, command)).toBe(!isTaker);
    const vm = { ...host.vm, dir: host.store.dirOf(sandboxId), sandboxId };
    const written = await callGuest(driver, vm, "/files/write", { path: "/a", content: sandboxId });
    expect(written["path"]).toBe("/a");
    expect((await callGuest(driver, vm, "/info", {}))["vm_id"]).toBe(sandboxId);
  }
  await kept(host, 1);
  expect([...(await vmms(dir, "warm")).values()].map(({ pid }) => pid)).not.toContain(warm?.pid);
  expect(host.supervisor.inventory()).toHaveLength(3);
});

test("what was kept gives way to a sandbox that needs the room, and comes back when that is gone", async () => {
  const host = await hostIn(newDir(), 1, 2);
  await host.carryOut(createOf(1));
  await kept(host, 1);
  const [larger] = commandsOf(["create"], imageSha256, MEMORY_MIB);
  if (larger === undefined) throw new Error("no command");
  // Of another size: it cannot take what is kept.
  const resources = { vcpu: 2, memoryMib: MEMORY_MIB, diskMib: 16 };
  const other = ofSandbox({ ...larger, spec: { ...larger.spec, resources } }, 2);
  let atCommit = -1;
  host.onCommit = async () => void (atCommit = (await vmms(host.store.dataDir, "warm")).size);
  expect((await host.carryOut(other)).state).toBe("running");
  expect(atCommit, "before anything of it begins").toBe(0);
  host.onCommit = async () => {};
  await host.carryOut({ ...other, kind: "delete", operationId: `op_${"d".repeat(32)}`, opSeq: 2 });
  await kept(host, 1);
  host.isOpen = false;
  await kept(host, 0);
});

test("a host that ends gives back what it kept", async () => {
  const host = await hostIn(newDir(), 1, 9);
  await host.carryOut(createOf(1));
  await kept(host, 1);
  await host.close();
  expect(await vmms(host.store.dataDir, "warm")).toEqual(new Map());
});

test(
  "a host that is lost at any step of a create from a warm VM: the create ends as it would have, and nothing is left of the pool",
  { timeout: 300_000 },
  async () => {
    const create = createOf(7);
    const { sandboxId } = create.spec;
    const loseAt = async (crashAt: number) => {
      const dir = newDir();
      const warm = { max: 1, memoryMib: roomFor(9) };
      const taken: Run[] = [];
      try {
        const lost = await loseHost(dir, driver, create, crashAt, {
          warm,
          before: async (host) => {
            void host.supervisor.watch();
            await host.carryOut(createOf(1));
            await kept(host, 1);
            taken.push(...(await vmms(dir, "warm")).values());
            // From the commit on it makes none: it would go on with that after its loss.
            const { onCommit } = host;
            host.onCommit = async (operationId) => {
              host.isOpen = false;
              await onCommit(operationId);
            };
          },
        });
        const next = new TestHost(dir, driver);
        await next.supervisor.adopt();
        // The broker delivers what was not acknowledged again; else it is a repeat.
        await next.supervisor.execute(create);
        const ended = () => next.seen.findLast((seen) => seen.operation?.id === create.operationId);
        const seen = await until("the end of the create", ended, 30_000);
        expect(seen.state, lost.steps.join(", ")).toBe("running");
        const running = await vmms(dir, "vm");
        expect([...running.keys()].toSorted()).toEqual(
          [createOf(1).spec.sandboxId, sandboxId].toSorted(),
        );
        const strays = taken.filter(
          (run) => isAlive(run) && running.get(sandboxId)?.pid !== run.pid,
        );
        expect(strays, lost.steps.join(", ")).toEqual([]);
        expect(await vmms(dir, "warm")).toEqual(new Map());
        expect(await readdir(join(dir, "warm"))).toEqual([]);
        expect(existsSync(join(dir, "vm", sandboxId, "op.json"))).toBe(false);
        await next.close();
        return lost.steps;
      } finally {
        await endAll(dir);
        await killVmms(taken.filter(isAlive));
      }
    };
    const steps = await loseAt(Infinity);
    expect(steps).toContain("take warm vm");
    for (let at = 1; at <= steps.length; at += 1) await loseAt(at);
  },
);
