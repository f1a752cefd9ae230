/**
 * A VMM that fails by itself: it dies, it hangs, or its socket is gone. The failure is noticed and
 * reported with a reason, and nothing of the user's is thrown away.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { listVmProcesses, type VmProcess } from "@torpor/fleet";
import { isAlive, signalProcess } from "@torpor/service";
import {
  readGuestFile,
  runCode,
  type SandboxResource,
  startTestFleet,
  type TestFleet,
  until,
  writeGuestFile,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

/** A hung VMM is inspected twice, five seconds each, before it is reported. */
const NOTICE_LIMIT_MS = 60_000;

async function createWithMemory(): Promise<{
  sandbox: SandboxResource;
  id: string;
  vmm: VmProcess;
}> {
  const sandbox = await fleet.createSandbox();
  const { id } = sandbox;
  await runCode(sandbox, "x = 42");
  const vmm = (await listVmProcesses(fleet.fleet.dir)).find(({ sandboxId }) => sandboxId === id);
  if (vmm === undefined) throw new Error("the sandbox has no VMM process");
  return { sandbox, id, vmm };
}
const hasCondition = (id: string) =>
  fleet.untilSandbox(
    "the condition",
    id,
    ({ condition }) => condition !== undefined,
    NOTICE_LIMIT_MS,
  );

describe("a VMM", () => {
  test("S20: that is killed is noticed: the sandbox is stopped, says why, and starts again on its files", async () => {
    const { sandbox, id, vmm } = await createWithMemory();
    await writeGuestFile(sandbox, "/workspace/note", "kept");
    signalProcess(vmm, "SIGKILL");
    const isStopped = ({ status }: SandboxResource) => status === "stopped";
    const stopped = await fleet.untilSandbox("the stop", id, isStopped);
    expect(stopped.error?.message).toMatch(/VMM/);
    expect(await fleet.client.sandboxes.start(id)).toMatchObject({ status: "running" });
    expect((await fleet.client.sandboxes.get(id)).error).toBeUndefined();
    expect(await readGuestFile(sandbox, "/workspace/note")).toBe("kept");
    await fleet.client.sandboxes.delete(id);
  });

  test("that hangs is said to, keeps its memory, and is well again when it goes on", async () => {
    const { sandbox, id, vmm } = await createWithMemory();
    signalProcess(vmm, "SIGSTOP");
    const hung = await hasCondition(id);
    expect(hung).toMatchObject({ status: "running", condition: "vmm_unresponsive" });
    expect(hung.condition_reason).toContain(`pid ${vmm.pid}`);
    expect(isAlive(vmm)).toBe(true);
    const pause = fleet.client.sandboxes.pause(id);
    await expect(pause, "a pause cannot work, and destroys nothing").rejects.toMatchObject({
      code: "VMM_UNRESPONSIVE",
    });
    signalProcess(vmm, "SIGCONT");
    await fleet.untilSandbox(
      "the end of the condition",
      id,
      ({ condition }) => condition === undefined,
      NOTICE_LIMIT_MS,
    );
    expect((await runCode(sandbox, "print(x)")).stdout).toBe("42\n");
    expect((await fleet.events(id)).map(({ fact }) => fact)).toEqual(
      expect.arrayContaining(["vmm_unresponsive", "vmm_responsive"]),
    );
    await fleet.client.sandboxes.delete(id);
  });

  test("whose socket is gone is said to be unreachable, and is ended by a delete alone", async () => {
    const { id, vmm } = await createWithMemory();
    await rm(join(fleet.fleet.dir, "hosts", vmm.hostId, "vm", id, "r1/control.sock"));
    expect(await hasCondition(id)).toMatchObject({
      status: "running",
      condition: "vmm_unresponsive",
    });
    expect(isAlive(vmm)).toBe(true);
    await fleet.client.sandboxes.delete(id);
    await until("the end of its process", () => !isAlive(vmm), NOTICE_LIMIT_MS);
  });
});
