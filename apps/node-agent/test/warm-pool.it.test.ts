/** Warm VMs, on hosts with simulated VMs (decision 41). */
import { existsSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { type OperationId, unverifiedSandboxId, type VmCommand } from "@torpor/contracts";
import { isAlive, type ProcessIdentity } from "@torpor/service";
import { tempDir } from "@torpor/testkit";
import { until } from "@torpor/testkit/basics";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import type { Driver, Vm } from "../src/drivers/driver.ts";
import { bootMs } from "../src/fence/clock.ts";
import { FenceFiles } from "../src/fence/files.ts";
import { readJson } from "../src/host/files.ts";
import { driverNamed } from "./support/drivers.ts";
import { loseHost } from "./support/lost-host.ts";
import { callGuest, commandsOf, killVmms, prepareImages, TestHost } from "./support/test-host.ts";

const MEMORY_MIB = 8;
/** Memory for this many VMs. */
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

/** Live VMMs of directories of that kind, by directory. */
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

async function hostIn(dir: string, max: number, room: number, its = driver): Promise<TestHost> {
  const warm = { max, memoryMib: roomFor(room) };
  const host = new TestHost(dir, its, undefined, undefined, undefined, 2, warm);
  await host.supervisor.adopt();
  void host.supervisor.watch();
  onTestFinished(async () => {
    await host.close();
    await endAll(dir);
  });
  return host;
}

/** The same command for another sandbox. */
const ofSandbox = (command: VmCommand, at: number): VmCommand => ({
  ...command,
  operationId: `op_${String(at).padStart(32, "0")}` as OperationId,
  spec: { ...command.spec, sandboxId: unverifiedSandboxId(`179549079${at}abcdefgh`.slice(0, 18)) },
});

const createOf = (at: number) => {
  const [command] = commandsOf(["create"], imageSha256, MEMORY_MIB);
  if (command === undefined) throw new Error("no command");
  return ofSandbox(command, at);
};

/** A create of another size than the warm VMs, so that it takes none. */
function otherOf(at: number): VmCommand {
  const { spec, ...command } = createOf(at);
  return { ...command, spec: { ...spec, resources: { ...spec.resources, vcpu: 2 } } };
}

/** A create whose runs the fence guards. */
function guardedOf(at: number): VmCommand {
  const { spec, ...command } = createOf(at);
  return { ...command, spec: { ...spec, onHostLoss: "restore" } };
}

const after = (command: VmCommand, kind: VmCommand["kind"], opSeq: number): VmCommand => ({
  ...command,
  kind,
  operationId: `op_${kind.padStart(32, "0")}` as OperationId,
  opSeq,
});

const isWarm = ({ dir }: Vm) => dir.includes("/warm/");

/** The driver, with a hook before it ends a warm VM. */
function endingAfter(before: (vm: Vm) => Promise<void>): Driver {
  const end: Driver["end"] = async (vm, options) => {
    if (isWarm(vm)) await before(vm);
    await driver.end(vm, options);
  };
  return new Proxy(driver, {
    get: (target, name) => (name === "end" ? end : bound(target, name)),
  });
}

function bound(target: Driver, name: string | symbol): unknown {
  const member: unknown = Reflect.get(target, name);
  return typeof member === "function" ? member.bind(target) : member;
}

/** Number of warm VMs when the command first waits for its commit. */
async function warmAtCommit(host: TestHost, command: VmCommand): Promise<number> {
  const atCommits: number[] = [];
  host.onCommit = async (operationId) => {
    if (operationId !== command.operationId) return;
    atCommits.push((await vmms(host.store.dataDir, "warm")).size);
  };
  await host.complete(command);
  return atCommits[0] ?? -1;
}

const kept = async (host: TestHost, count: number) =>
  await until(`${count} warm VMs`, async () =>
    host.supervisor.warmVms() === count && (await vmms(host.store.dataDir, "warm")).size === count
      ? true
      : undefined,
  );

const timingsOf = (host: TestHost, { operationId }: VmCommand) =>
  host.seen.findLast(({ operation }) => operation?.id === operationId)?.timingsMs ?? {};

test("WP1: a create takes the VM that was kept, once, and the next one is made in its place", async () => {
  const host = await hostIn(newDir(), 1, 9);
  const dir = host.store.dataDir;
  const first = createOf(1);
  expect((await host.complete(first)).state).toBe("running");
  expect(timingsOf(host, first), "none was kept yet").toHaveProperty("restore");
  await kept(host, 1);
  const [[, warm] = []] = await vmms(dir, "warm");
  const [second, third] = [createOf(2), createOf(3)];
  const ended = await Promise.all([host.complete(second), host.complete(third)]);
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

test("WP3: what was kept gives way to a sandbox that needs the room, and comes back when that is gone", async () => {
  const host = await hostIn(newDir(), 1, 2);
  await host.complete(createOf(1));
  await kept(host, 1);
  const other = otherOf(2);
  expect(await warmAtCommit(host, other), "before anything of it begins").toBe(0);
  // A paused sandbox has no memory; its stop may have to run it again.
  await host.complete(after(other, "pause", 2));
  await kept(host, 1);
  expect(await warmAtCommit(host, after(other, "stop", 3)), "as a stop may run it").toBe(0);
  await kept(host, 1);
  host.isOpen = false;
  await kept(host, 0);
});

test("what is kept stays while more are made, and a host that ends gives all back at once", async () => {
  const ends: string[] = [];
  const all = Promise.withResolvers<void>();
  const watched = endingAfter(async ({ dir }) => {
    if (ends.push(dir) === 4) all.resolve();
    await all.promise;
  });
  const host = await hostIn(newDir(), 4, 9, watched);
  await Promise.all([1, 2, 3, 4].map((at) => host.complete(createOf(at))));
  await kept(host, 4);
  expect(ends, "none has made room for the next").toEqual([]);
  await host.close();
  expect(new Set(ends).size).toBe(4);
  expect(await vmms(host.store.dataDir, "warm")).toEqual(new Map());
});

test("an agent that starts does not wait for what the one before it kept, nor fails by it", async () => {
  const dir = newDir();
  for (const name of ["warm-a", "warm-b"])
    await mkdir(join(dir, "warm", name), { recursive: true });
  const held = Promise.withResolvers<void>();
  const host = await hostIn(
    dir,
    0,
    9,
    endingAfter(async ({ sandboxId }) => {
      if (sandboxId === "warm-b") throw new Error("it hangs in the kernel");
      await held.promise;
    }),
  );
  const atCommits: string[][] = [];
  host.onCommit = async () => void atCommits.push(await readdir(join(dir, "warm")));
  const created = host.complete(createOf(1));
  held.resolve();
  expect((await created).state).toBe("running");
  expect(atCommits[0], "a run waits for the memory").toEqual(["warm-b"]);
});

test("none is made once a run begins, however long the look before it took", async () => {
  const calls = { armed: false, count: 0, reached: Promise.withResolvers<void>() };
  const goOn = Promise.withResolvers<void>();
  const restored: string[] = [];
  const slow = new Proxy(driver, {
    get: (target, name) => {
      const member = bound(target, name) as (...given: unknown[]) => unknown;
      if (name !== "fingerprint" && name !== "restore") return member;
      return async (...given: unknown[]) => {
        if (name === "restore" && isWarm(given[0] as Vm)) restored.push((given[0] as Vm).dir);
        if (name === "fingerprint" && calls.armed && (calls.count += 1) === 2) {
          calls.reached.resolve();
          await goOn.promise;
        }
        return await member(...given);
      };
    },
  });
  const host = await hostIn(newDir(), 1, 2, slow);
  host.isOpen = false;
  await host.complete(createOf(1));
  host.isOpen = calls.armed = true;
  await calls.reached.promise;
  const other = otherOf(2);
  const made: number[] = [];
  host.onCommit = async () => {
    const before = restored.length;
    goOn.resolve();
    const looked = calls.count + 2;
    await until("the pool looks again", () => (calls.count >= looked ? true : undefined));
    made.push(restored.length - before);
  };
  await host.complete(other);
  expect(made[0]).toBe(0);
});

test("what is being taken counts as its sandbox's before the create is journalled", async () => {
  const host = await hostIn(newDir(), 2, 4);
  await Promise.all([1, 2].map((at) => host.complete(createOf(at))));
  await kept(host, 2);
  const taking = createOf(3);
  const { store } = host;
  const write = store.writeJournal.bind(store);
  const [reached, goOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  store.writeJournal = async (sandboxId, journal) => {
    if (sandboxId === taking.spec.sandboxId) {
      reached.resolve();
      await goOn.promise;
    }
    await write(sandboxId, journal);
  };
  const taken = host.complete(taking);
  await reached.promise;
  expect(await warmAtCommit(host, otherOf(4)), "four sandboxes have all of the room").toBe(0);
  goOn.resolve();
  expect((await taken).state).toBe("running");
});

test("a create that cannot be journalled leaves nothing of what was taken for it", async () => {
  const host = await hostIn(newDir(), 1, 9);
  await host.complete(createOf(1));
  await kept(host, 1);
  host.isOpen = false;
  const { store } = host;
  const dir = store.dataDir;
  const [[, warm] = []] = await vmms(dir, "warm");
  const create = createOf(2);
  const { sandboxId } = create.spec;
  const write = store.writeJournal.bind(store);
  store.writeJournal = async () => {
    store.writeJournal = write;
    expect((await vmms(dir, "vm")).get(sandboxId)?.pid).toBe(warm?.pid);
    throw new Error("the disk is full");
  };
  await expect(host.supervisor.submit(create)).rejects.toThrow("the disk is full");
  expect(warm !== undefined && isAlive(warm)).toBe(false);
  expect(existsSync(store.dirOf(sandboxId))).toBe(false);
  expect((await host.complete(create)).state).toBe("running");
  expect((await store.read(sandboxId))?.hostName, "it is called as every other").toBe(undefined);
});

test("the fence guards what begins under the lease that runs: no VM of before is used for that", async () => {
  const dir = newDir();
  const [first, second] = [guardedOf(2), guardedOf(3)];
  const journalOf = ({ spec }: VmCommand) => join(dir, "vm", spec.sandboxId, "op.json");
  const slow = endingAfter(async () => {
    if (!isOver) await until("the create is journalled", () => existsSync(journalOf(first)));
  });
  let isOver = false;
  const host = await hostIn(dir, 1, 9, slow);
  host.fence.refusal = async () => undefined;
  await host.complete(createOf(1));
  await kept(host, 1);
  expect(await warmAtCommit(host, first), "its memory is free before the run begins").toBe(0);
  isOver = true;
  expect(timingsOf(host, first), "there was no lease").toHaveProperty("restore");
  await new FenceFiles(dir).writeLease({ sinceBootMs: 0, untilBootMs: bootMs() + 600_000 });
  await host.fence.renew(bootMs(), 600_000);
  await kept(host, 1);
  const [[, warm] = []] = await vmms(dir, "warm");
  host.onCommit = async () => {
    await new FenceFiles(dir).writeLease({ sinceBootMs: 0, untilBootMs: 1 });
    await host.fence.renew(bootMs(), 600_000);
  };
  expect((await host.complete(second)).state).toBe("running");
  expect(timingsOf(host, second), "it had one, of the lease before").toHaveProperty("assign");
  expect(timingsOf(host, second)).toHaveProperty("restore");
  expect(warm !== undefined && isAlive(warm)).toBe(false);
});

test(
  "WP1, WP2: a host that is lost at any step of a create from a warm VM: the create ends as it would have, and nothing is left of the pool",
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
            await host.complete(createOf(1));
            await kept(host, 1);
            taken.push(...(await vmms(dir, "warm")).values());
            // From the commit on, the host makes no warm VM, which would continue after its loss.
            const { onCommit } = host;
            host.onCommit = async (operationId) => {
              host.isOpen = false;
              await onCommit(operationId);
            };
          },
        });
        const next = new TestHost(dir, driver);
        await next.supervisor.adopt();
        // The broker delivers an unacknowledged command again; otherwise this is a repeat.
        await next.supervisor.submit(create);
        const ended = () => next.seen.findLast((seen) => seen.operation?.id === create.operationId);
        const seen = await until("the end of the create", ended, 30_000);
        expect(seen.state, lost.steps.join(", ")).toBe("running");
        const running = await vmms(dir, "vm");
        expect([...running.keys()].toSorted()).toEqual(
          [createOf(1).spec.sandboxId, sandboxId].toSorted(),
        );
        const orphans = taken.filter(
          (run) => isAlive(run) && running.get(sandboxId)?.pid !== run.pid,
        );
        expect(orphans, lost.steps.join(", ")).toEqual([]);
        await next.close();
        expect(await vmms(dir, "warm")).toEqual(new Map());
        expect(await readdir(join(dir, "warm"))).toEqual([]);
        expect(existsSync(join(dir, "vm", sandboxId, "op.json"))).toBe(false);
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
