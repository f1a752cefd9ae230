/**
 * S13: a pause fails if the host's disk cannot take the memory image, and the sandbox runs on as if
 * there had been no request. The disk is the machine's own; the memory, which a simulated VM only
 * claims to have, is more than any disk takes.
 */
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import type { VmCommand } from "@torpor/contracts";
import { tempDir } from "@torpor/testkit";
import { expect, test } from "vitest";
import { driverNamed } from "./support/drivers.ts";
import { commandsOf, prepareImages, TestHost, vmmProcesses } from "./support/test-host.ts";

const MEMORY_MIB = 1_000_000_000;

test("S13: a pause without room on the disk fails by name, leaves no file, and the VM runs on", async () => {
  await using root = await tempDir();
  const dir = join(root.path, "host");
  await mkdir(dir);
  const driver = driverNamed("simulated");
  const imageSha256 = await prepareImages(join(root.path, "images"), driver);
  const commands = commandsOf(["create", "pause"], imageSha256, MEMORY_MIB);
  const [create, pause] = commands as [VmCommand, VmCommand];
  const host = new TestHost(dir, driver);
  await host.supervisor.adopt();
  try {
    await host.complete(create);
    await host.guest("/execute", { code: "x = 42" });
    // An earlier agent died while it wrote the memory, and the save continues.
    const unfinished = join(host.vm.dir, "snap.1.tmp");
    await mkdir(unfinished);
    await driver.pauseVcpus(host.vm);
    const foundByCallOff: string[][] = [];
    driver.callOffSave = async ({ dir: vmDir }) => void foundByCallOff.push(await readdir(vmDir));
    const { state, operation } = await host.complete(pause);
    expect(foundByCallOff).toEqual([expect.arrayContaining(["snap.1.tmp"])]);
    expect(state).toBe("running");
    expect(operation).toMatchObject({ outcome: "failed", error: { code: "PAUSE_FAILED" } });
    expect(operation?.error?.message).toMatch(
      /the sandbox runs on: the host's disk has \d+ bytes free and the memory image may take \d+/,
    );

    expect(vmmProcesses(dir)).toHaveLength(1);
    const names = await readdir(host.vm.dir);
    expect(names.filter((name) => /^snap\.|\.tmp$|^op\.json$/.test(name))).toEqual([]);
    expect(await host.guest("/execute", { code: "print(x)" })).toMatchObject({ stdout: "42\n" });
  } finally {
    await host.end();
  }
});
