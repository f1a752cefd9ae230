/**
 * Receives the memory image of a VM from QEMU, over a UNIX socket of the agent. The image is hashed
 * while it is written, and synced.
 *
 * QEMU's own file and exec transports are not used: version 7.2 reports success with missing bytes
 * or a failed writer. A separate process (`cat`) copies the bytes from the socket to the file. In
 * this process the copy would cost several times as much, mostly for buffers that are made and
 * collected, and everything else in this process would wait. The hash is computed from the growing
 * file, out of the page cache.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { chown, type FileHandle, open, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { SnapshotFile } from "../driver.ts";

const BLOCK_BYTES = 1024 ** 2;
const FOLLOW_MS = 2;
const LAST_WORDS_CHARACTERS = 300;

export interface Receiver {
  /** Resolves once the peer has closed and every byte is on disk. */
  received: Promise<SnapshotFile>;
  close(): void;
}

/** Listens on `socketPath` for one connection, and writes its bytes to `file`. */
export async function receiveMemory(
  socketPath: string,
  file: string,
  uid: number | undefined,
  signal: AbortSignal,
): Promise<Receiver> {
  await rm(socketPath, { force: true });
  // This process must read nothing before the other one does.
  const server = createServer({ pauseOnConnect: true });
  const close = () => server.close();
  try {
    server.listen(socketPath);
    await once(server, "listening", { signal });
    if (uid !== undefined) await chown(socketPath, uid, uid);
  } catch (error) {
    close();
    throw error;
  }
  const received = (async () => {
    const [socket] = (await once(server, "connection", { signal })) as [Socket];
    close();
    return await writeThrough(socket, file, signal);
  })();
  // A caller that closes before a connection came never reads the result.
  received.catch(() => {});
  return { received, close };
}

async function writeThrough(
  socket: Socket,
  file: string,
  signal: AbortSignal,
): Promise<SnapshotFile> {
  try {
    await using handle = await open(file, "wx+", 0o600);
    const writer = spawn("cat", [], {
      stdio: [socket, handle.fd, "pipe"],
      signal,
      // `cat` has nothing to clean up, and a stopped one ends by no other signal.
      killSignal: "SIGKILL",
    });
    // `cat` has its own descriptor.
    socket.destroy();
    const ended = endOf(writer);
    // The rest of the file is hashed while it is synced.
    const synced = ended.then(() => handle.datasync());
    const [hashed] = await Promise.allSettled([hashGrowing(handle, ended, signal), synced]);
    await synced;
    if (hashed.status === "rejected") throw hashed.reason;
    return hashed.value;
  } finally {
    socket.destroy();
  }
}

/** Resolves when `cat` has written everything; throws its error output otherwise. */
async function endOf(writer: ChildProcess): Promise<void> {
  let said = "";
  writer.stderr?.setEncoding("utf8").on("data", (text: string) => {
    said = (said + text).slice(-LAST_WORDS_CHARACTERS);
  });
  const [code, signal] = (await once(writer, "close")) as [number | null, string | null];
  if (code !== 0)
    throw new Error(`the memory could not be written: ${said.trim() || `${signal ?? code}`}`);
}

/** Size and hash of a file that grows until `ended`. */
async function hashGrowing(
  handle: FileHandle,
  ended: Promise<void>,
  signal: AbortSignal,
): Promise<SnapshotFile> {
  const hash = createHash("sha256");
  const buffer = Buffer.allocUnsafe(BLOCK_BYTES);
  let sizeBytes = 0;
  let hasEnded = false;
  void ended.catch(() => {}).then(() => (hasEnded = true));
  for (;;) {
    signal.throwIfAborted();
    const isWhole = hasEnded;
    const { bytesRead } = await handle.read(buffer, 0, BLOCK_BYTES, sizeBytes);
    hash.update(buffer.subarray(0, bytesRead));
    sizeBytes += bytesRead;
    if (bytesRead === 0 && isWhole) return { sizeBytes, sha256: hash.digest("hex") };
    if (bytesRead < BLOCK_BYTES && !isWhole) await sleep(FOLLOW_MS);
  }
}
