/**
 * S13: a pause on a host whose disk cannot take the memory image fails, and the sandbox runs on as if nothing had been asked. The disk is the machine's own; the memory, which a
 * simulated VM only says that it has, is more than any disk takes.
 */
import { execFile } from "node:child_process";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Observation } from "@torpor/contracts";
import { tempDir } from "@torpor/testkit";
import { expect, test } from "vitest";
import { driverNamed } from "./support/drivers.ts";
import { callGuest, commandsOf, killVmms, prepareImages, SANDBOX, vmIn, vmmProcesses } from "./support/test-host.ts";

const run = promisify(execFile);
const HOST = fileURLToPath(new URL("support/host-process.ts", import.meta.url));
const MEMORY_MIB = 1_000_000_000;

test("S13: a pause that the disk has no room for fails by name, leaves no file, and the sandbox runs on with its memory", async () => {
  await using root = await tempDir();
  const [imagesDir, dir] = [join(root.path, "images"), join(root.path, "host")];
  await mkdir(dir);
  const imageSha256 = await prepareImages(imagesDir, driverNamed("simulated"));
  const [create, pause] = commandsOf(["create", "pause"], imageSha256, MEMORY_MIB);
  const steps = [create, { path: "/execute", body: { code: "x = 42" } }, pause];
  const args = [HOST, dir, "simulated", "0", ...steps.map((step) => JSON.stringify(step))];
  const { stdout } = await run(process.execPath, args, { timeout: 45_000 });
  const vmms = vmmProcesses(dir);
  try {
    const seen = stdout
      .split("\n")
      .flatMap((line) => (line.includes('"observation"') ? [(JSON.parse(line) as { observation: Observation }).observation] : []));
    const last = seen.at(-1);
    expect(last).toMatchObject({ state: "running", operation: { outcome: "failed", error: { code: "PAUSE_FAILED" } } });
    expect(last?.operation?.error?.message).toMatch(
      /the sandbox runs on: the host's disk has \d+ bytes free and the memory image may take \d+/,
    );

    expect(vmms).toHaveLength(1);
    const vm = join(dir, "vm", SANDBOX);
    expect((await readdir(vm)).filter((name) => name.startsWith("snap.") || name.endsWith(".tmp") || name === "op.json")).toEqual([]);
    expect(await callGuest(driverNamed("simulated"), vmIn(dir), "/execute", { code: "print(x)" })).toMatchObject({ stdout: "42\n" });
  } finally {
    await killVmms(vmms);
  }
});
