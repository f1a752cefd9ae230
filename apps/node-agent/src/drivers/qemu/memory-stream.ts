/**
 * The memory image of a VM, in and out of QEMU over a UNIX socket that is ours: hashed and synced on the way out, hashed again on the way in.
 *
 * QEMU's own file and exec transports are not used: version 7.2 reports success with bytes missing or a failed writer, and restores a flipped bit silently.
 */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { chown, open, rm } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import type { SnapshotFile } from "../driver.ts";

/** Listens on `socketPath` for one connection and writes what comes to `file`. `received` resolves when the peer has closed and every byte is on disk. */
export async function receiveMemory(
  socketPath: string,
  file: string,
  uid: number | undefined,
  signal: AbortSignal,
): Promise<{ received: Promise<SnapshotFile>; close(): void }> {
  await rm(socketPath, { force: true });
  const server = createServer({ pauseOnConnect: true });
  server.listen(socketPath);
  await once(server, "listening", { signal });
  if (uid !== undefined) await chown(socketPath, uid, uid);
  const close = () => server.close();
  const received = (async () => {
    const [socket] = (await once(server, "connection", { signal })) as [Socket];
    close();
    signal.addEventListener("abort", () => socket.destroy(), { once: true });
    return await writeStream(socket, file);
  })();
  // Whoever closes before a connection came never looks at the result.
  received.catch(() => {});
  return { received, close };
}

async function writeStream(socket: Socket, file: string): Promise<SnapshotFile> {
  const hash = createHash("sha256");
  const handle = await open(file, "wx", 0o600);
  let sizeBytes = 0;
  try {
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      hash.update(chunk);
      let written = 0;
      while (written < chunk.length) written += (await handle.write(chunk, written)).bytesWritten;
      sizeBytes += chunk.length;
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  return { sizeBytes, sha256: hash.digest("hex") };
}

/** Feeds `file` to the VMM that listens on `socketPath`. Returns why the bytes were not the expected ones, or undefined. */
export async function sendMemory(
  socketPath: string,
  file: string,
  expected: SnapshotFile,
  signal: AbortSignal,
): Promise<string | undefined> {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  const socket = connect({ path: socketPath });
  await once(socket, "connect", { signal });
  let broken: Error | undefined;
  socket.on("error", (error) => (broken = error));
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20, signal }) as AsyncIterable<Buffer>) {
    hash.update(chunk);
    sizeBytes += chunk.length;
    if (broken !== undefined) continue;
    if (!socket.write(chunk)) await drainedOrClosed(socket);
  }
  socket.end();
  if (sizeBytes !== expected.sizeBytes) return `the memory image has ${sizeBytes} bytes, its manifest says ${expected.sizeBytes}`;
  if (hash.digest("hex") !== expected.sha256) return "the memory image is damaged: its SHA-256 differs from its manifest's";
  return undefined;
}

async function drainedOrClosed(socket: Socket): Promise<void> {
  await new Promise<void>((resolve) => {
    const goOn = () => {
      socket.off("drain", goOn).off("close", goOn);
      resolve();
    };
    socket.once("drain", goOn).once("close", goOn);
    if (socket.destroyed) goOn();
  });
}
