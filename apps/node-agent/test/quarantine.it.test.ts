/**
 * A quarantined VM, with paused vCPUs and cut off: it stays so, with its memory, over a crash of
 * the agent, until the control plane continues with it or drops it.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { OperationId, VmCommand } from "@torpor/contracts";
import { tempDir, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DRIVER_NAMES, driverNamed } from "./support/drivers.ts";
import { commandsOf, prepareImages, SANDBOX, TestHost, vmmProcesses } from "./support/test-host.ts";

let root: Awaited<ReturnType<typeof tempDir>>;
beforeAll(async () => {
  root = await tempDir();
});
afterAll(async () => {
  await root[Symbol.asyncDispose]();
});

describe.each(DRIVER_NAMES)("on %s", (name) => {
  let imageSha256: string;
  beforeAll(async () => {
    imageSha256 = await prepareImages(join(root.path, name, "images"), driverNamed(name));
  });

  let hosts = 0;
  /** A host whose one sandbox is quarantined and remembers x = 42. */
  async function quarantined(
    body: (
      host: TestHost,
      commands: VmCommand[],
      restarted: () => Promise<TestHost>,
    ) => Promise<void>,
  ): Promise<void> {
    hosts += 1;
    const dir = join(root.path, name, `host-${hosts}`);
    await mkdir(dir, { recursive: true });
    const [create, ...commands] = commandsOf(["create", "pause", "resume"], imageSha256);
    const start = () =>
      new TestHost(dir, driverNamed(name), undefined, join(root.path, name, "images"));
    const host = start();
    let newest = host;
    const restarted = async () => {
      await newest.close();
      newest = start();
      return newest;
    };
    try {
      await host.supervisor.adopt();
      await host.complete(create as VmCommand);
      await host.guest("/execute", { code: "x = 42" });
      expect(await host.supervisor.submit({ ...(create as VmCommand), kind: "quarantine" })).toBe(
        "journalled",
      );
      expect(await status(host)).toBe("paused");
      await body(host, [create as VmCommand, ...commands], restarted);
    } finally {
      await newest.end();
    }
  }
  const status = async (host: TestHost) => (await driverNamed(name).inspect(host.vm)).kind;
  const expectMemory = async (host: TestHost) =>
    expect(await host.guest("/execute", { code: "print(x)" })).toMatchObject({ stdout: "42\n" });

  test("it stands still, nothing is let through to it, and its host says so", async () => {
    await quarantined(async (host, [create]) => {
      expect(host.supervisor.inventory()).toMatchObject([{ state: "running", quarantined: true }]);
      expect(await host.supervisor.route(SANDBOX, 1)).toBeUndefined();
      expect(await host.supervisor.submit({ ...(create as VmCommand), kind: "quarantine" })).toBe(
        "repeated",
      );
    });
  });

  test("an agent that starts anew leaves it so, and one that finds it running freezes it", async () => {
    await quarantined(async (host, _commands, restarted) => {
      // Killed between the record and the pause of the vCPUs.
      await driverNamed(name).resumeVcpus(host.vm);
      const next = await restarted();
      await next.supervisor.adopt();
      await until("it is frozen", async () => (await status(next)) === "paused");
      expect(next.supervisor.inventory()).toMatchObject([{ quarantined: true }]);
      void next.supervisor.watch();
      await until("it was looked at", () => next.seen.length > 0);
      expect(await status(next)).toBe("paused");
    });
  });

  test("unquarantined, it runs on with its memory", async () => {
    await quarantined(async (host, [create]) => {
      expect(await host.supervisor.submit({ ...(create as VmCommand), kind: "unquarantine" })).toBe(
        "journalled",
      );
      expect(await status(host)).toBe("running");
      expect(host.supervisor.inventory()[0]?.quarantined).toBeUndefined();
      await expectMemory(host);
    });
  });

  test("the next command of the sandbox goes on with it", async () => {
    await quarantined(async (host, [, pause, resume]) => {
      expect(await host.complete(pause as VmCommand)).toMatchObject({
        state: "paused",
        snapshot: { guestSynced: true },
      });
      expect(await host.complete(resume as VmCommand)).toMatchObject({ state: "running" });
      await expectMemory(host);
    });
  });

  test("a discard of a higher epoch drops it, one of its own does not, and neither needs to know its spec", async () => {
    await quarantined(async (host, [create]) => {
      const spec = { ...(create as VmCommand).spec, imageSha256: "0".repeat(64), templateName: "" };
      const discard = {
        ...(create as VmCommand),
        kind: "discard" as const,
        operationId: `op_${"f".repeat(32)}` as OperationId,
        spec,
      };
      expect(await host.supervisor.submit(discard)).toBe("stale");
      expect(await host.complete({ ...discard, epoch: 2 })).toMatchObject({ state: "deleted" });
      expect(vmmProcesses(host.store.dataDir)).toEqual([]);
    });
  });

  test("what was said of an earlier run does not hold for this one", async () => {
    await quarantined(async (host, [create]) => {
      await host.supervisor.submit({ ...(create as VmCommand), kind: "unquarantine" });
      expect(
        await host.supervisor.submit({ ...(create as VmCommand), kind: "quarantine", epoch: 2 }),
      ).toBe("stale");
      expect(await status(host)).toBe("running");
    });
  });
});
