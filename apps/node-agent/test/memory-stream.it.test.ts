/** The transfer of a memory image from QEMU, without QEMU: what is left when it is aborted. */
import { once } from "node:events";
import { readFile, stat, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { tempDir } from "@torpor/testkit";
import { expect, test } from "vitest";
import { receiveMemory } from "../src/drivers/qemu/memory-stream.ts";

const NEVER = new AbortController().signal;

/** A receiver, and a peer that is connected to it. */
async function connected(dir: string, signal: AbortSignal) {
  const socketPath = join(dir, "out.sock");
  const file = join(dir, "memory");
  const { received } = await receiveMemory(socketPath, file, undefined, signal);
  const peer = connect(socketPath).on("error", () => {});
  const closed = new Promise((resolve) => void peer.once("close", resolve));
  await once(peer, "connect");
  return { received, peer, closed, file };
}

test("what comes is in the file, with its hash", async () => {
  await using dir = await tempDir();
  const { received, peer, file } = await connected(dir.path, NEVER);
  peer.end("memory");
  expect(await received).toEqual({
    sizeBytes: 6,
    sha256: "c064fbca9d9de8dd9bb0624984403b28d0da807a69365d4f7fb09123ecb0c405",
  });
  expect(await readFile(file, "utf8")).toBe("memory");
});

test("a file that cannot be made closes the connection", async () => {
  await using dir = await tempDir();
  await writeFile(join(dir.path, "memory"), "somebody else's");
  const { received, peer, closed } = await connected(dir.path, NEVER);
  await expect(received).rejects.toMatchObject({ code: "EEXIST" });
  peer.resume();
  await closed;
});

test("one that is called off in the middle closes the connection and ends its writer", async () => {
  await using dir = await tempDir();
  const cancel = new AbortController();
  const { received, peer, closed, file } = await connected(dir.path, cancel.signal);
  peer.write("first bytes");
  while ((await stat(file).catch(() => ({ size: 0 }))).size === 0) await sleep(2);
  cancel.abort(new Error("called off"));
  await expect(received).rejects.toThrow("The operation was aborted");
  peer.resume();
  // The writer also held the connection.
  await closed;
});
