/**
 * A VMM that fails by itself: it dies, it hangs, or its socket is gone. The failure is noticed and
 * reported with a reason, and nothing of the user's is thrown away.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { listVmProcesses, type VmProcess } from "@torpor/fleet";
import { isAlive, signalProcess } from "@torpor/service";
import { startTestFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
beforeAll(async () => {
  fleet = await startTestFleet();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

type Body = Record<string, unknown>;
/** A hung VMM is inspected twice, five seconds each, before it is reported. */
const NOTICE_LIMIT_MS = 60_000;

async function createWithMemory(): Promise<{ sandbox: Body; id: string; vmm: VmProcess }> {
  const { body: sandbox } = await fleet.call("POST", "/v1/sandboxes", {
    body: { template_name: "code-interpreter" },
  });
  const id = String(sandbox["id"]);
  await fleet.guest(sandbox, "/execute", { language: "python", code: "x = 42" });
  const vmm = (await listVmProcesses(fleet.fleet.dir)).find(({ sandboxId }) => sandboxId === id);
  if (vmm === undefined) throw new Error("the sandbox has no VMM process");
  return { sandbox, id, vmm };
}
const view = async (id: string) => (await fleet.call("GET", `/v1/sandboxes/${id}`)).body;
const events = async (id: string) =>
  ((await fleet.call("GET", `/v1/sandboxes/${id}/events`)).body["data"] as Body[]).map(
    ({ fact }) => fact,
  );
const printed = async (sandbox: Body) =>
  (await fleet.guest(sandbox, "/execute", { language: "python", code: "print(x)" })).body["stdout"];

describe("a VMM", () => {
  test("S20: that is killed is noticed: the sandbox is stopped, says why, and starts again on its files", async () => {
    const { sandbox, id, vmm } = await createWithMemory();
    await fleet.guest(sandbox, "/files/write", { path: "/workspace/note", content: "kept" });
    signalProcess(vmm, "SIGKILL");
    const stopped = await until("the stop", async () =>
      (await view(id))["status"] === "stopped" ? await view(id) : undefined,
    );
    expect((stopped["error"] as Body)["message"]).toMatch(/VMM/);
    expect((await fleet.call("POST", `/v1/sandboxes/${id}/start`)).body).toMatchObject({
      status: "running",
    });
    expect((await view(id))["error"]).toBeUndefined();
    expect((await fleet.guest(sandbox, "/files/read?path=/workspace/note")).body).toMatchObject({
      content: "kept",
    });
    await fleet.call("DELETE", `/v1/sandboxes/${id}`);
  });

  test("that hangs is said to, keeps its memory, and is well again when it goes on", async () => {
    const { sandbox, id, vmm } = await createWithMemory();
    signalProcess(vmm, "SIGSTOP");
    const hung = await until(
      "the condition",
      async () => ((await view(id))["condition"] === undefined ? undefined : await view(id)),
      NOTICE_LIMIT_MS,
    );
    expect(hung).toMatchObject({ status: "running", condition: "vmm_unresponsive" });
    expect(String(hung["condition_reason"])).toContain(`pid ${vmm.pid}`);
    expect(isAlive(vmm)).toBe(true);
    const pause = await fleet.call("POST", `/v1/sandboxes/${id}/pause`);
    expect(pause.body, "a pause cannot work, and destroys nothing").toMatchObject({
      code: "VMM_UNRESPONSIVE",
    });
    signalProcess(vmm, "SIGCONT");
    await until(
      "the end of the condition",
      async () => (await view(id))["condition"] === undefined,
      NOTICE_LIMIT_MS,
    );
    expect(await printed(sandbox)).toBe("42\n");
    expect(await events(id)).toEqual(
      expect.arrayContaining(["vmm_unresponsive", "vmm_responsive"]),
    );
    await fleet.call("DELETE", `/v1/sandboxes/${id}`);
  });

  test("whose socket is gone is said to be unreachable, and is ended by a delete alone", async () => {
    const { id, vmm } = await createWithMemory();
    await rm(join(fleet.fleet.dir, "hosts", vmm.hostId, "vm", id, "r1/control.sock"));
    const cut = await until(
      "the condition",
      async () => ((await view(id))["condition"] === undefined ? undefined : await view(id)),
      NOTICE_LIMIT_MS,
    );
    expect(cut).toMatchObject({ status: "running", condition: "vmm_unresponsive" });
    expect(isAlive(vmm)).toBe(true);
    expect((await fleet.call("DELETE", `/v1/sandboxes/${id}`)).status).toBeLessThan(300);
    await until("the end of its process", () => !isAlive(vmm), NOTICE_LIMIT_MS);
  });
});
