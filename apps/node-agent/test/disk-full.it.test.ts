/**
 * S13: a pause on a host whose disk cannot take the memory image fails, and the sandbox runs on as if nothing had been asked. The disk is the machine's own; the memory, which a
 * simulated VM only says that it has, is more than any disk takes.
 */
import { execFile } from "node:child_process";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Observation } from "@torpor/contracts";
import { findProcesses, isAlive, signalProcess } from "@torpor/service";
import { makeSimulatedImage, tempDir } from "@torpor/testkit";
import { expect, test } from "vitest";
import { SimulatedDriver } from "../src/drivers/simulated/simulated.ts";
import { listImages } from "../src/images.ts";
import { ensureGolden } from "../src/lifecycle/golden.ts";
import { httpGuest } from "../src/lifecycle/guest.ts";

const run = promisify(execFile);
const HOST = fileURLToPath(new URL("support/host-process.ts", import.meta.url));
const SANDBOX = "1795490791abcdefgh";
const MEMORY_MIB = 1_000_000_000;

test("S13: a pause that the disk has no room for fails by name, leaves no file, and the sandbox runs on with its memory", async () => {
  await using root = await tempDir();
  const [imagesDir, dir] = [join(root.path, "images"), join(root.path, "host")];
  await mkdir(imagesDir);
  await mkdir(dir);
  const imageSha256 = await makeSimulatedImage(imagesDir);
  const driver = new SimulatedDriver();
  for (const image of await listImages(imagesDir))
    await ensureGolden(image, { driver, guest: httpGuest(driver), uid: undefined, scratchDir: join(imagesDir, ".scratch"), say: () => {} });

  const spec = {
    sandboxId: SANDBOX,
    templateName: "code-interpreter",
    imageSha256,
    resources: { vcpu: 1, memoryMib: MEMORY_MIB, diskMib: 16 },
    internetAccess: false,
    envVars: {},
  };
  const command = (kind: string, opSeq: number) => ({
    type: "command",
    version: 1,
    kind,
    hostId: "host-1",
    operationId: `op_${opSeq.toString(16).padStart(32, "0")}`,
    epoch: 1,
    opSeq,
    deadlineAt: "2099-01-01T00:00:00.000Z",
    spec,
  });
  const steps = [command("create", 1), { path: "/execute", body: { code: "x = 42" } }, command("pause", 2)];
  const { stdout } = await run(process.execPath, [HOST, dir, "0", ...steps.map((step) => JSON.stringify(step))], { timeout: 45_000 });
  const vmms = findProcesses(join(dir, "vm", SANDBOX), "TORPOR_VMM", SANDBOX).filter(isAlive);
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
    const { guest } = JSON.parse(await readFile(join(vm, "run.json"), "utf8")) as { guest: { port: number } };
    const answer = await fetch(`http://127.0.0.1:${guest.port}/execute`, {
      method: "POST",
      body: JSON.stringify({ code: "print(x)" }),
      signal: AbortSignal.timeout(5_000),
    });
    expect(await answer.json()).toMatchObject({ stdout: "42\n" });
  } finally {
    for (const identity of vmms) signalProcess(identity, "SIGKILL");
  }
});
