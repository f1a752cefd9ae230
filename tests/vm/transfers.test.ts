/**
 * Large and long transfers: files of 200 MB, terminals that are resized without end, clients that
 * leave in the middle. Gateway and node-agent must neither grow nor keep anything.
 */
import { createHash, randomBytes } from "node:crypto";
import { readdirSync } from "node:fs";
import { residentBytes } from "@torpor/service";
import { type SandboxResource, shell, startVmFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WebSocket } from "ws";

const MIB = 1024 ** 2;
const FILE_BYTES = 200_000_000;

let fleet: TestFleet;
let sandbox: SandboxResource;
beforeAll(async () => {
  fleet = await startVmFleet({ hosts: 1, schedulers: 1 });
  sandbox = await fleet.createSandbox();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const authorization = () => ({ authorization: `Bearer ${sandbox.auth_token}` });
const at = (path: string) => new URL(path, sandbox.public_host);
const run = (command: string) => shell(sandbox, command, 100);
const carriers = () =>
  ["gateway-1", "host-1"].map((name) => ({
    name,
    pid: fleet.fleet.component(name).process?.pid ?? 0,
  }));

/** Largest growth of each carrying process while `body` ran, in bytes. */
async function growthDuring(body: () => Promise<void>): Promise<Record<string, number>> {
  const before = carriers().map(({ name, pid }) => ({
    name,
    pid,
    bytes: residentBytes(pid),
    most: 0,
  }));
  const look = setInterval(
    () =>
      before.forEach((one) => (one.most = Math.max(one.most, residentBytes(one.pid) - one.bytes))),
    50,
  );
  try {
    await body();
  } finally {
    clearInterval(look);
  }
  return Object.fromEntries(before.map(({ name, most }) => [name, most]));
}

/** multipart/form-data as the SDK sends it, generated while it is sent. */
function upload(boundary: string, hash: ReturnType<typeof createHash>): ReadableStream<Uint8Array> {
  const block = randomBytes(MIB);
  let left = FILE_BYTES;
  const field = `--${boundary}\r\ncontent-disposition: form-data; name="path"\r\n\r\n/workspace/big.bin\r\n`;
  const head = `${field}--${boundary}\r\ncontent-disposition: form-data; name="file"; filename="big.bin"\r\ncontent-type: application/octet-stream\r\n\r\n`;
  return new ReadableStream({
    start: (controller) => controller.enqueue(Buffer.from(head)),
    pull: (controller) => {
      const chunk = block.subarray(0, Math.min(left, block.length));
      left -= chunk.length;
      if (chunk.length > 0) {
        hash.update(chunk);
        controller.enqueue(chunk);
        return;
      }
      controller.enqueue(Buffer.from(`\r\n--${boundary}--\r\n`));
      controller.close();
    },
  });
}

test("200 MB go in and come out unchanged, and nothing that carries them grows with them", async () => {
  const sent = createHash("sha256");
  const boundary = "torpor-test-boundary";
  const growth = await growthDuring(async () => {
    const answer = await fetch(at("/files/upload"), {
      method: "POST",
      headers: { ...authorization(), "content-type": `multipart/form-data; boundary=${boundary}` },
      body: upload(boundary, sent),
      duplex: "half",
    } as RequestInit);
    expect(answer.status, await answer.text()).toBe(200);
    const received = createHash("sha256");
    const download = await fetch(at("/files/download?path=/workspace/big.bin"), {
      headers: authorization(),
    });
    expect(Number(download.headers.get("content-length"))).toBe(FILE_BYTES);
    for await (const chunk of download.body ?? []) received.update(chunk as Uint8Array);
    expect(received.digest("hex")).toBe(sent.copy().digest("hex"));
  });
  expect(await run("sha256sum < /workspace/big.bin")).toBe(`${sent.digest("hex")}  -`);
  await run("rm /workspace/big.bin");
  for (const [name, bytes] of Object.entries(growth))
    expect(bytes, `${name} grew by ${Math.round(bytes / MIB)} MiB`).toBeLessThan(100 * MIB);
});

async function open(path: string): Promise<WebSocket> {
  const url = at(path);
  url.protocol = "ws:";
  const socket = new WebSocket(url, { headers: authorization() });
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  return socket;
}

test("a terminal survives a storm of resizes", async () => {
  const socket = await open("/terminal");
  let text = "";
  socket.on("message", (data: Buffer) => {
    const frame = JSON.parse(data.toString()) as { type: string; data?: string };
    if (frame.type === "output") text += frame.data ?? "";
  });
  for (let round = 1; round <= 1_000; round += 1)
    socket.send(
      JSON.stringify({ type: "resize", cols: 20 + (round % 200), rows: 10 + (round % 50) }),
    );
  socket.send(JSON.stringify({ type: "resize", cols: 101, rows: 31 }));
  socket.send(JSON.stringify({ type: "input", data: "stty size\n" }));
  await until("its last size", () => text.includes("31 101"), 60_000);
  socket.close();
});

test(
  "clients that leave in the middle leave nothing behind, in the guest or on the way",
  { tags: ["exhaustive"] },
  async () => {
    const descriptors = () => carriers().map(({ pid }) => readdirSync(`/proc/${pid}/fd`).length);
    // The gateway's connections to its database come and go with the load. These commands open as
    // many as the test needs, and the wait at the end is long enough for idle ones to end.
    await Promise.all(Array.from({ length: 20 }, () => run("true")));
    const before = descriptors();
    const sockets = await Promise.all(Array.from({ length: 8 }, () => open("/execute/stream")));
    for (const socket of sockets)
      socket.send(
        JSON.stringify({ type: "execute", language: "bash", code: "exec -a leaver yes" }),
      );
    const leaver = "pgrep -c -f '^leave[r]' || true";
    await until("all run", async () => (await run(leaver)) === "8", 60_000);
    const cutOff = new AbortController();
    const download = fetch(at("/execute"), {
      method: "POST",
      headers: { ...authorization(), "content-type": "application/json" },
      body: JSON.stringify({ language: "bash", code: "exec -a leaver sleep 600" }),
      signal: cutOff.signal,
    }).catch(() => undefined);
    await until("the last one runs", async () => (await run(leaver)) === "9", 60_000);
    for (const socket of sockets) socket.terminate();
    cutOff.abort();
    await download;
    await until("none runs any more", async () => (await run(leaver)) === "0", 60_000);
    await until(
      "the descriptors are those of before",
      () => descriptors().every((count, index) => count <= (before[index] ?? 0) + 3),
      120_000,
    );
  },
);
