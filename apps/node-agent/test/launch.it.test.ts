/**
 * A host starts no more at once than its limit, in the order of the commands, and nothing that was
 * cancelled. A VMM counts at the durable step that starts its process.
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Observation, OperationId, SandboxId, VmCommand } from "@torpor/contracts";
import { tempDir, until } from "@torpor/testkit";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DURABLE_STEP_CHANNEL, type DurableStep } from "../src/host/durable-step.ts";
import { driverNamed } from "./support/drivers.ts";
import { commandsOf, isEndOf, prepareImages, TestHost, vmmProcesses } from "./support/test-host.ts";

const driver = driverNamed("simulated");
let root: Awaited<ReturnType<typeof tempDir>>;
let dir: string;
let imageSha256: string;
let host: TestHost;
/** Names of the durable steps so far. */
let steps: string[];
/** Operations that requested a commit; a create does so once it has its slot. */
let asked: Set<string>;
/** Calls to await before, or after, a step of that name. */
let holds: Map<string, () => Promise<void>>;

const watch = (message: unknown) => {
  const { name, when, hold } = message as DurableStep;
  if (when === "after") steps.push(name);
  const held = holds.get(`${when} ${name}`);
  if (held !== undefined) hold(held());
};

beforeEach(async () => {
  root = await tempDir();
  dir = join(root.path, "host");
  await mkdir(dir);
  imageSha256 = await prepareImages(join(root.path, "images"), driver);
  host = newHost();
  await host.supervisor.adopt();
  steps = [];
  asked = new Set();
  holds = new Map();
  subscribe(DURABLE_STEP_CHANNEL, watch);
});
afterEach(async () => {
  unsubscribe(DURABLE_STEP_CHANNEL, watch);
  await host.end();
  await root[Symbol.asyncDispose]();
});

const newHost = () => new TestHost(dir, driver, undefined, undefined, "none", 1);
const spawned = () => steps.filter((name) => name === "spawn vmm").length;

/** A create, and commands that can follow it. */
const commands = () =>
  commandsOf(["create", "stop", "start"], imageSha256) as [VmCommand, VmCommand, VmCommand];

/** The create of another sandbox, whose id has that digit. */
function another(create: VmCommand, digit: number): VmCommand {
  const sandboxId = `180000000${digit}abcdefgh` as SandboxId;
  const operationId = `op_${digit.toString().padStart(32, "f")}` as OperationId;
  return { ...create, operationId, spec: { ...create.spec, sandboxId } };
}

function cancelOf(command: VmCommand): VmCommand {
  const operationId = `op_${"c".repeat(32)}` as OperationId;
  return { ...command, kind: "cancel", operationId, cancels: command.operationId };
}

/** The report of a command's end, once it has ended. */
const endOf = (command: VmCommand): Promise<Observation> =>
  until(`the end of ${command.operationId}`, () =>
    host.seen.findLast((seen) => isEndOf(command, seen)),
  );

const CANCELLED = {
  operation: { outcome: "cancelled", error: { code: "OPERATION_CANCELLED" } },
};

/** A create that holds its slot until `letGo`. */
async function holdSlot(create: VmCommand): Promise<{ letGo: () => void }> {
  const [isHeld, answer] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  host.onCommit = async (operationId) => {
    asked.add(operationId);
    if (operationId !== create.operationId) return;
    isHeld.resolve();
    await answer.promise;
  };
  expect(await host.supervisor.submit(create)).toBe("journalled");
  await isHeld.promise;
  return { letGo: answer.resolve };
}

describe("starts wait for a slot", () => {
  test("in the order of their commands; what is told is what goes on", async () => {
    const [create] = commands();
    const others = [another(create, 1), another(create, 2)];
    for (const { operationId } of others) host.refusedCommits.add(operationId);
    const { letGo } = await holdSlot(create);
    for (const other of others)
      expect(await host.supervisor.submit(other), "at once").toBe("journalled");
    await until("both wait", () => host.supervisor.starts().startsWaiting === 2);
    expect(host.supervisor.starts()).toEqual({
      startsAtOnce: 1,
      startsRunning: 1,
      startsWaiting: 2,
    });
    expect(spawned(), "before its commit").toBe(0);
    letGo();
    for (const one of [create, ...others]) await endOf(one);
    expect([...asked]).toEqual([create, ...others].map(({ operationId }) => operationId));
    expect(spawned(), "a create whose commit is refused launches nothing").toBe(1);
    expect(host.supervisor.starts()).toMatchObject({ startsRunning: 0, startsWaiting: 0 });
  });

  test("a stop does not; a start that waits runs once its slot is free", async () => {
    const [create, stop, start] = commands();
    await host.complete(create);
    const other = another(create, 1);
    host.refusedCommits.add(other.operationId);
    const { letGo } = await holdSlot(other);
    expect(await host.complete(stop)).toMatchObject({ state: "stopped" });
    expect(await host.supervisor.submit(start)).toBe("journalled");
    await until("the start waits", () => host.supervisor.starts().startsWaiting === 1);
    expect(spawned()).toBe(1);
    letGo();
    expect(await endOf(start)).toMatchObject({
      state: "running",
      operation: { outcome: "succeeded" },
    });
  });

  test("LA3: not past its deadline, unless the control plane knows that it was begun before", async () => {
    const [create] = commands();
    const overdue = { ...create, deadlineAt: "2020-01-01T00:00:00.000Z" };
    const late = another(overdue, 1);
    host.refusedCommits.add(late.operationId);
    expect(await host.complete(late)).toMatchObject({
      state: "failed",
      operation: { error: { code: "RATE_LIMIT_EXCEEDED", retryAfterSeconds: 1 } },
    });
    expect(spawned()).toBe(0);
    expect(await host.complete(overdue)).toMatchObject({ state: "running" });
  });

  test("a host that closes leaves it to the next process", async () => {
    const [create] = commands();
    const other = another(create, 1);
    host.refusedCommits.add(other.operationId);
    const { letGo } = await holdSlot(other);
    expect(await host.supervisor.submit(create)).toBe("journalled");
    await until("it waits", () => host.supervisor.starts().startsWaiting === 1);
    const closed = host.supervisor.close(30_000);
    letGo();
    expect(await closed).toBe(true);
    expect(spawned()).toBe(0);
    host = newHost();
    await host.supervisor.adopt();
    await until("it runs", () =>
      host.supervisor.inventory().some(({ state, busyWith }) => state === "running" && !busyWith),
    );
    expect(spawned()).toBe(1);
  });
});

describe("SV5: once a cancel is acknowledged, nothing launches what it cancels", () => {
  test("that waits for a slot", async () => {
    const [create] = commands();
    const other = another(create, 1);
    const { letGo } = await holdSlot(other);
    host.refusedCommits.add(other.operationId);
    expect(await host.supervisor.submit(create)).toBe("journalled");
    expect(await host.supervisor.submit(cancelOf(create))).toBe("journalled");
    letGo();
    expect(await endOf(create)).toMatchObject({ state: "failed", ...CANCELLED });
    expect(spawned()).toBe(0);
  });

  test("that has its slot, and is about to launch", async () => {
    const [create] = commands();
    holds.set("before spawn vmm", async () => {
      expect(await host.supervisor.submit(cancelOf(create))).toBe("journalled");
    });
    expect(await host.complete(create)).toMatchObject({ state: "failed", ...CANCELLED });
    expect(spawned()).toBe(0);
    expect(vmmProcesses(dir)).toEqual([]);
  });

  test("that is being journalled", async () => {
    const [create] = commands();
    holds.set("before write op.json", async () => {
      expect(await host.supervisor.submit(cancelOf(create))).toBe("journalled");
    });
    expect(await host.complete(create)).toMatchObject({ state: "failed", ...CANCELLED });
    expect(spawned()).toBe(0);
  });

  test("that comes later than its cancel", async () => {
    const [create] = commands();
    expect(await host.supervisor.submit(cancelOf(create))).toBe("journalled");
    expect(await host.complete(create)).toMatchObject({ state: "failed", ...CANCELLED });
    expect(spawned()).toBe(0);
  });

  test("SV4: that waits behind another one of its sandbox; the sandbox is as that one left it", async () => {
    const [create, stop, start] = commands();
    await host.complete(create);
    const shown = Promise.withResolvers<void>();
    holds.set("after write op.json", async () => {
      holds.clear();
      const taken = host.supervisor.submit(start);
      expect(await host.supervisor.submit(cancelOf(start))).toBe("journalled");
      void taken.finally(shown.resolve);
    });
    expect(await host.complete(stop)).toMatchObject({ state: "stopped" });
    await shown.promise;
    expect(await endOf(start)).toMatchObject({ state: "stopped", ...CANCELLED });
    expect(spawned()).toBe(1);
  });

  test("nor does the next process", async () => {
    const [create] = commands();
    const closed = Promise.withResolvers<boolean>();
    holds.set("after write op.json", async () => {
      expect(await host.supervisor.submit(cancelOf(create))).toBe("journalled");
      closed.resolve(host.supervisor.close(30_000));
    });
    expect(await host.supervisor.submit(create)).toBe("journalled");
    expect(await closed.promise).toBe(true);
    holds.clear();
    host = newHost();
    await host.supervisor.adopt();
    expect(await endOf(create)).toMatchObject({ state: "failed", ...CANCELLED });
    expect(spawned()).toBe(0);
  });

  test("a delete cancels what it waits for", async () => {
    const [create] = commands();
    const other = another(create, 1);
    const { letGo } = await holdSlot(other);
    host.refusedCommits.add(other.operationId);
    expect(await host.supervisor.submit(create)).toBe("journalled");
    const operationId = `op_${"d".repeat(32)}` as OperationId;
    const deleted = { ...create, kind: "delete" as const, operationId, opSeq: create.opSeq + 1 };
    expect(await host.complete(deleted)).toMatchObject({ state: "deleted" });
    letGo();
    await endOf(other);
    expect(spawned()).toBe(0);
  });
});
