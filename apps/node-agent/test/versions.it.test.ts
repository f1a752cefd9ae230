/**
 * A host with a newer control plane: a command of an unknown kind gets a response, and changes
 * nothing.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { OperationId, VmCommand } from "@torpor/contracts";
import { tempDir } from "@torpor/testkit";
import { expect, test } from "vitest";
import { driverNamed } from "./support/drivers.ts";
import { commandsOf, prepareImages, TestHost } from "./support/test-host.ts";

test("a command that only a newer control plane knows fails by name; the VM runs on, its memory too, and the next command is carried out", async () => {
  await using root = await tempDir();
  const dir = join(root.path, "host");
  await mkdir(dir);
  const driver = driverNamed("simulated");
  const imageSha256 = await prepareImages(join(root.path, "images"), driver);
  const [create, later, pause] = commandsOf(["create", "stop", "pause"], imageSha256) as [
    VmCommand,
    VmCommand,
    VmCommand,
  ];
  const unknown = { ...later, kind: "teleport" } as unknown as VmCommand;
  const host = new TestHost(dir, driver);
  await host.supervisor.adopt();
  try {
    await host.complete(create);
    await host.guest("/execute", { code: "x = 42" });
    expect(await host.complete(unknown)).toMatchObject({
      state: "running",
      operation: {
        outcome: "failed",
        error: { code: "UNKNOWN_COMMAND", message: expect.stringContaining("teleport") },
      },
    });
    expect(await host.guest("/execute", { code: "print(x)" })).toMatchObject({ stdout: "42\n" });
    expect(await host.complete(pause)).toMatchObject({
      state: "paused",
      operation: { outcome: "succeeded" },
    });

    // The sandbox's state does not matter either.
    expect(
      await host.complete({
        ...unknown,
        opSeq: 9,
        operationId: `op_${"9".repeat(32)}` as OperationId,
      }),
    ).toMatchObject({
      state: "paused",
      operation: { outcome: "failed", error: { code: "UNKNOWN_COMMAND" } },
      snapshot: { generation: 1 },
    });
  } finally {
    await host.end();
  }
});
