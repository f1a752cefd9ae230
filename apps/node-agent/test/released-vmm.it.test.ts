/**
 * Resources of a VM on its host are released when its VMM ends, also by itself, and after a restart
 * of the agent only if the VMM is gone.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { HostId, OperationId, SandboxId, VmCommand } from "@torpor/contracts";
import { createLogger, findProcesses, signalProcess } from "@torpor/service";
import { makeSimulatedImage, tempDir, until } from "@torpor/testkit";
import { expect, test } from "vitest";
import type { Vm } from "../src/drivers/driver.ts";
import { SimulatedDriver } from "../src/drivers/simulated/simulated.ts";
import { FenceFiles } from "../src/fence/files.ts";
import { listImages } from "../src/images/images.ts";
import { ensureGolden } from "../src/images/golden.ts";
import { httpGuest } from "../src/lifecycle/guest.ts";
import { VmStore } from "../src/lifecycle/vm-store.ts";
import { Supervisor } from "../src/lifecycle/supervisor.ts";
import { Activity } from "../src/data-plane/activity.ts";
import { FenceLink } from "../src/control/fence-link.ts";
import { ChunkStore } from "../src/store/chunk-store.ts";
import { peerSource } from "../src/store/peer.ts";
import { fileBlobs } from "./support/snapshots.ts";
import { COMMAND_KEY, killVmms } from "./support/test-host.ts";

const CLOSE_LIMIT_MS = 30_000;

/** Ends VMMs as the real driver does, and records which ones. */
class WatchedDriver extends SimulatedDriver {
  readonly ended: string[] = [];

  override async end(vm: Vm, options: { graceMs: number; signal?: AbortSignal }): Promise<void> {
    await super.end(vm, options);
    this.ended.push(vm.sandboxId);
  }
}

test("a VMM that dies is released by the agent that sees it; a new agent collects for all but the living", async () => {
  await using root = await tempDir();
  const [imagesDir, dir] = [join(root.path, "images"), join(root.path, "host")];
  await mkdir(imagesDir);
  const imageSha256 = await makeSimulatedImage(imagesDir);
  const driver = new WatchedDriver();
  const guest = httpGuest(driver);
  const scratchDir = join(imagesDir, ".scratch");
  for (const image of await listImages(imagesDir))
    await ensureGolden(image, { driver, guest, uid: undefined, scratchDir, say: () => {} });
  const collected: string[][] = [];
  const agent = () =>
    new Supervisor(
      {
        hostId: "host-1" as HostId,
        startsAtOnce: 2,
        warm: { max: 0, memoryMib: 0 },
        isOpen: () => true,
        store: new VmStore(dir),
        driver,
        isolation: {
          collect: async (live) => void collected.push(live.map(({ sandboxId }) => sandboxId)),
        },
        guest,
        snapshots: new ChunkStore(fileBlobs(join(dir, "store"))),
        peer: (sandboxId, reference) => peerSource(sandboxId, reference),
        activity: new Activity(),
        fence: new FenceLink(new FenceFiles(dir)),
        commandKey: COMMAND_KEY,
        imagesDir,
        commit: async () => ({ kind: "granted" }),
        uid: undefined,
        log: createLogger({ name: "host", level: "silent" }),
      },
      () => {},
    );
  const command = (sandboxId: SandboxId, kind: VmCommand["kind"], opSeq: number): VmCommand => ({
    type: "command",
    version: 1,
    kind,
    hostId: "host-1" as HostId,
    operationId: `op_${opSeq.toString(16).padStart(32, "0")}` as OperationId,
    epoch: 1,
    opSeq,
    deadlineAt: "2099-01-01T00:00:00.000Z",
    spec: {
      sandboxId,
      templateName: "code-interpreter",
      imageSha256,
      resources: { vcpu: 1, memoryMib: 64, diskMib: 16 },
      internetAccess: false,
      envVars: {},
    },
  });
  const vmmsOf = (sandboxId: string) =>
    findProcesses(join(dir, "vm", sandboxId), "TORPOR_VMM", sandboxId);
  const [dying, living] = ["1795490791aaaaaaaa" as SandboxId, "1795490791bbbbbbbb" as SandboxId];
  const [first, second] = [agent(), agent()];
  try {
    await first.adopt();
    expect(collected).toEqual([[]]);
    for (const sandboxId of [dying, living]) await first.submit(command(sandboxId, "create", 1));
    const stateOf = (sandboxId: string) =>
      first.inventory().find((seen) => seen.sandboxId === sandboxId && seen.busyWith === undefined)
        ?.state;
    for (const sandboxId of [dying, living])
      await until(`${sandboxId} runs`, () => stateOf(sandboxId) === "running");

    driver.ended.length = 0;
    void first.watch();
    for (const identity of vmmsOf(dying)) signalProcess(identity, "SIGKILL");
    await until("the dead VMM is reported", () => stateOf(dying) === "stopped");
    await until("it is released", () => driver.ended.includes(dying));
    expect(driver.ended).not.toContain(living);
    expect(await first.close(CLOSE_LIMIT_MS)).toBe(true);

    await second.adopt();
    expect(collected.at(-1)).toEqual([living]);
    expect(vmmsOf(living)).toHaveLength(1);
  } finally {
    for (const one of [first, second]) await one.close(CLOSE_LIMIT_MS);
    await killVmms([...vmmsOf(dying), ...vmmsOf(living)]);
  }
});
