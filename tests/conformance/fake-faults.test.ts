/**
 * The fake's own behaviour: its toy guest keeps what it should and loses what it must, and each
 * fault that a test can request happens.
 */
import { once } from "node:events";
import { mkdirSync, readFileSync, statSync, truncateSync } from "node:fs";
import { type IncomingMessage, request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { GUEST_AGENT_PORT } from "@torpor/contracts";
import { setFaults } from "@torpor/fake-cloud-hypervisor";
import { FAKE_CLOUD_HYPERVISOR_BIN } from "@torpor/programs";
import { RAM_BYTES, RESTORE, SNAPSHOT, Stage } from "./support/stage.ts";
import { jsonOf, RawConnection, type VmmProcess } from "./support/vmm.ts";

const SILENCE_MS = 500;
let stage: Stage;

beforeEach(async () => {
  stage = await Stage.open({ bin: FAKE_CLOUD_HYPERVISOR_BIN, guestBootLimitMs: 0 });
});
afterEach(async () => {
  await stage.close();
});

/** Sends one request to the guest agent through the hybrid vsock. */
async function guestCall(
  vmm: VmmProcess,
  path: string,
  body: unknown,
): Promise<Record<string, unknown>> {
  const socket = connect(join(vmm.dir, "vsock.sock"));
  socket.write(`CONNECT ${GUEST_AGENT_PORT}\n`);
  const [greeting] = (await once(socket, "data")) as [Buffer];
  expect(greeting.toString()).toMatch(/^OK \d+\n$/);
  const outgoing = request({
    createConnection: () => socket,
    path,
    method: "POST",
    headers: { connection: "close" },
  });
  outgoing.end(JSON.stringify(body));
  const [incoming] = (await once(outgoing, "response")) as [IncomingMessage];
  return jsonOf(await text(incoming)) as Record<string, unknown>;
}

const print = async (vmm: VmmProcess) =>
  (await guestCall(vmm, "/execute", { code: "print(x)" }))["stdout"];

async function snapshotWithMemory(): Promise<VmmProcess> {
  const first = await stage.running();
  await guestCall(first, "/execute", { code: "x = 42" });
  await guestCall(first, "/files/write", { path: "f", content: "kept" });
  await first.put("vm.pause");
  const dir = join(first.dir, "snap");
  mkdirSync(dir);
  expect((await first.put("vm.snapshot", SNAPSHOT)).status).toBe(204);
  await first.put("vmm.shutdown");
  await first.exit();
  return first;
}

async function restoredIn({ dir }: VmmProcess): Promise<VmmProcess> {
  const vmm = await stage.empty(dir.slice(stage.dir.length + 1));
  expect((await vmm.put("vm.restore", { ...RESTORE, resume: true })).status).toBe(204);
  return vmm;
}

test("the guest's memory comes back out of the snapshot, its files off the disk; a new boot has only the files", async () => {
  const vmm = await restoredIn(await snapshotWithMemory());
  expect(await print(vmm)).toBe("42\n");
  expect(await guestCall(vmm, "/files/read", { path: "f" })).toMatchObject({ content: "kept" });
  expect((await vmm.put("vm.reboot")).status).toBe(204);
  expect(await guestCall(vmm, "/execute", { code: "print(x)" })).toMatchObject({ success: false });
  expect(await guestCall(vmm, "/files/read", { path: "f" })).toMatchObject({ content: "kept" });
});

test("a guest out of a cut memory image runs, but never answers", async () => {
  const first = await snapshotWithMemory();
  truncateSync(join(first.dir, "snap/memory-ranges"), RAM_BYTES / 2);
  const vmm = await restoredIn(first);
  expect(await vmm.state()).toBe("Running");
  const connection = await RawConnection.open(join(vmm.dir, "vsock.sock"));
  connection.send(`CONNECT ${GUEST_AGENT_PORT}\n`);
  await connection.until((received) => received !== "", SILENCE_MS);
  expect([connection.received, connection.isClosed]).toEqual(["", false]);
});

test("a guest that shuts down ends the process with 0 and its sockets are gone", async () => {
  const vmm = await stage.running();
  await guestCall(vmm, "/_torpor/shutdown", {});
  expect(await vmm.exit()).toEqual({ code: 0, signal: null });
  expect(readFileSync(join(vmm.dir, "vmm.log"), "utf8")).toContain("VM guest exit event");
  expect(() => statSync(vmm.socketPath)).toThrow("ENOENT");
});

test("hang: the call and every other one get no answer, SIGTERM neither", async () => {
  const vmm = await stage.running();
  await setFaults(vmm.dir, [{ kind: "hang", call: "vm.pause", when: "before" }]);
  const answers: unknown[] = [];
  for (const call of [vmm.put("vm.pause"), vmm.get("vmm.ping")])
    call.then(
      (answer) => answers.push(answer),
      () => {},
    );
  // The calls must arrive before the signal, because the fake handles both in order.
  await sleep(SILENCE_MS);
  vmm.signal("SIGTERM");
  await sleep(SILENCE_MS);
  expect(answers).toEqual([]);
  expect(vmm.child.exitCode).toBeNull();
});

test.for(["before", "answered"] as const)("die, %s", async (when) => {
  const vmm = await stage.running();
  await setFaults(vmm.dir, [{ kind: "die", call: "vm.pause", when }]);
  const status = await vmm.put("vm.pause").then(
    (answer) => answer.status,
    () => "closed",
  );
  expect(status).toBe(when === "answered" ? 204 : "closed");
  expect((await vmm.exit()).signal).toBe("SIGKILL");
});

test("die during a snapshot: three files, no memory in them", async () => {
  const vmm = await stage.paused();
  await setFaults(vmm.dir, [{ kind: "die", call: "vm.snapshot", when: "during" }]);
  await expect(vmm.put("vm.snapshot", SNAPSHOT)).rejects.toThrow("socket hang up");
  await vmm.exit();
  const { size, blocks } = statSync(join(vmm.dir, "snap/memory-ranges"));
  expect([size, blocks]).toEqual([RAM_BYTES, 0]);
});

test("a lost response, a short config.json, and a 503 that comes once", async () => {
  const vmm = await stage.running();
  await setFaults(vmm.dir, [
    { kind: "lose-response", call: "vm.pause" },
    { kind: "short-config" },
    { kind: "busy", times: 1 },
  ]);
  expect((await vmm.get("vmm.ping")).status).toBe(503);
  await expect(vmm.put("vm.pause")).rejects.toThrow("socket hang up");
  expect(await vmm.state()).toBe("Paused");
  mkdirSync(join(vmm.dir, "snap"));
  expect((await vmm.put("vm.snapshot", SNAPSHOT)).status).toBe(204);
  expect(jsonOf(readFileSync(join(vmm.dir, "snap/config.json"), "utf8"))).toBeUndefined();
  await setFaults(vmm.dir, []);
  expect((await vmm.put("vm.resume")).status).toBe(204);
});

test("bytes right behind CONNECT are the connection's", async () => {
  const vmm = await stage.running();
  const socket = connect(join(vmm.dir, "vsock.sock"));
  let received = "";
  socket.setEncoding("utf8").on("data", (chunk: string) => (received += chunk));
  socket.write(
    `CONNECT ${GUEST_AGENT_PORT}\nGET /health HTTP/1.1\r\nhost: guest\r\nconnection: close\r\n\r\n`,
  );
  await new Promise((resolve) => socket.once("close", resolve));
  expect(received).toMatch(/^OK \d+\nHTTP\/1\.1 200/);
  expect(received).toContain("healthy");
});
