/** The HTTP layer: what counts as a request, what is too much, and the form of a refusal. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { apiCase, type Case, expectError, expectStatus, type Stage } from "../support/stage.ts";
import { jsonOf, RawConnection } from "../support/vmm.ts";

const MAX_BODY_BYTES = 51_200;
const MAX_CONNECTIONS = 10;
const ANSWER_LIMIT_MS = 10_000;
const RETRY_LIMIT_MS = 10_000;
const PING = "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";

async function rawAnswer(stage: Stage, text: string): Promise<string> {
  const vmm = await stage.empty();
  const connection = await RawConnection.open(vmm.socketPath);
  connection.send(text);
  await connection.until(
    (received) => received.includes("\r\n\r\n") && received.endsWith("}"),
    ANSWER_LIMIT_MS,
  );
  connection.socket.destroy();
  return connection.received;
}

export const httpCases: Case[] = [
  apiCase("1.2", "vmm.ping says version 53.0 and the process's own pid", async (stage) => {
    const vmm = await stage.empty();
    const answer = await vmm.get("vmm.ping");
    expectStatus(answer, 200);
    const { version, pid } = answer.json as { version: string; pid: number };
    assert.match(version, /^v?53\.0/);
    assert.equal(pid, vmm.child.pid);
  }),
  apiCase("1.1", "an unknown path is a 404, as an array of messages", async (stage) => {
    const vmm = await stage.empty();
    expectError(await vmm.put("vm.no-such-call"), 404, "Not Found");
    expectError(await vmm.get("vmm.ping?x=1"), 404, "Not Found");
  }),
  apiCase("1.1", "GET of a PUT call and PUT of a GET call are 400", async (stage) => {
    const vmm = await stage.empty();
    expectError(await vmm.get("vm.pause"), 400, "Bad Request");
    expectError(await vmm.put("vm.info"), 400, "Bad Request");
  }),
  apiCase("11.4", 'a body on a call without one is a 400 ["Bad Request"]', async (stage) => {
    const vmm = await stage.empty();
    const answer = await vmm.put("vm.pause", {});
    expectStatus(answer, 400);
    assert.deepEqual(answer.json, ["Bad Request"]);
  }),
  apiCase("11.4", "another method is a 400 whose body is not valid JSON", async (stage) => {
    const received = await rawAnswer(stage, "POST /api/v1/vm.pause HTTP/1.1\r\n\r\n");
    assert.match(received, /^HTTP\/1\.1 400 /);
    const body = received.slice(received.indexOf("\r\n\r\n") + 4);
    assert.match(body, /^\{ "error": "Invalid HTTP Method/);
    assert.equal(jsonOf(body), undefined, "it is valid JSON now");
  }),
  apiCase(
    "1.3",
    "a body that is no JSON, or lacks a field, is a 400 with an array",
    async (stage) => {
      const vmm = await stage.empty();
      expectError(await vmm.putText("vm.create", '{"payload":'), 400, "Failed to deserialize JSON");
      expectError(await vmm.put("vm.restore", {}), 400, "Failed to deserialize JSON", "source_url");
      expectError(
        await vmm.put("vm.restore", { source_url: "file://snap", memory_restore_mode: "Lazy" }),
        400,
        "expected",
      );
    },
  ),
  apiCase("1.3", "vm.snapshot without a body is a 400", async (stage) => {
    const vmm = await stage.empty();
    expectError(await vmm.put("vm.snapshot"), 400, "Bad Request");
  }),
  apiCase("11.4", "a body of 51,200 bytes is read", async (stage) => {
    const vmm = await stage.empty();
    expectError(
      await vmm.putText("vm.restore", " ".repeat(MAX_BODY_BYTES)),
      400,
      "Failed to deserialize JSON",
      `column ${MAX_BODY_BYTES}`,
    );
  }),
  apiCase(
    "11.4",
    "of a longer body the rest is read as further requests, a 400 each on the same connection",
    async (stage) => {
      const vmm = await stage.empty();
      const connection = await RawConnection.open(vmm.socketPath);
      connection.send(
        `PUT /api/v1/vm.restore HTTP/1.1\r\nContent-Length: ${MAX_BODY_BYTES + 1}\r\n\r\n${"{".repeat(MAX_BODY_BYTES + 1)}`,
      );
      await connection.until(
        (received) => received.split("HTTP/1.1 400").length > 3,
        ANSWER_LIMIT_MS,
      );
      assert.match(connection.received, /larger than the limit of 51200/);
      assert.ok(connection.received.split("HTTP/1.1 400").length > 2, "only one 400 came");
      connection.socket.destroy();
    },
  ),
  apiCase("1.1", "a connection may carry one request after the other", async (stage) => {
    const vmm = await stage.empty();
    const connection = await RawConnection.open(vmm.socketPath);
    for (const count of [1, 2, 3]) {
      connection.send(PING);
      await connection.until(
        (received) => received.split("HTTP/1.1 200").length > count,
        ANSWER_LIMIT_MS,
      );
      assert.equal(connection.received.split("HTTP/1.1 200").length, count + 1);
    }
    connection.socket.destroy();
  }),
  apiCase(
    "11.4",
    "an 11th connection gets a 503; when the others are closed, calls are answered again",
    async (stage) => {
      const vmm = await stage.empty();
      const connections = await fillConnections(vmm.socketPath);
      const eleventh = await RawConnection.open(vmm.socketPath);
      await eleventh.until((received) => received.endsWith("}"), ANSWER_LIMIT_MS);
      assert.match(eleventh.received, /^HTTP\/1\.1 503/);
      assert.match(eleventh.received, /Too many open connections/);
      for (const connection of [...connections, eleventh]) connection.socket.destroy();
      const deadline = performance.now() + RETRY_LIMIT_MS;
      let answer = await vmm.get("vmm.ping").catch(() => undefined);
      while (answer?.status !== 200 && performance.now() < deadline) {
        await sleep(50);
        answer = await vmm.get("vmm.ping").catch(() => undefined);
      }
      assert.equal(answer?.status, 200);
    },
  ),
];

/**
 * Opens ten connections that each got a response from the server. A connection of an earlier call
 * may still be counted, so a refused one is tried again.
 */
async function fillConnections(path: string): Promise<RawConnection[]> {
  const connections: RawConnection[] = [];
  const deadline = performance.now() + RETRY_LIMIT_MS;
  while (connections.length < MAX_CONNECTIONS) {
    const connection = await RawConnection.open(path);
    connection.send(PING);
    await connection.until((received) => received.endsWith("}"), ANSWER_LIMIT_MS);
    if (connection.received.startsWith("HTTP/1.1 200")) connections.push(connection);
    else
      assert.ok(performance.now() < deadline, `only ${connections.length} connections are let in`);
  }
  return connections;
}
