/**
 * Directories that a VMM uses besides its run's own (r<n>/, with API socket, events and logs).
 * Their names are the same in every run, because a snapshot holds them.
 *
 * - The VMM's user may write to io/ and out/, and read restore/, but cannot replace them: they are
 *   in the VM's directory, which belongs to the agent.
 * - All of them are fresh for each run: they hold nothing of an earlier run.
 * - A file from out/ is trusted only as a plain file, and belongs to the agent before the agent
 *   reads it. out/ is emptied name by name, never walked: the VMM may add anything meanwhile.
 */
import {
  chmod,
  chown,
  constants,
  link,
  mkdir,
  readdir,
  rename,
  rm,
  rmdir,
  unlink,
} from "node:fs/promises";
import { join } from "node:path";
import { copySparsely, isNotFound, makeDirectoryFor, openUntrusted } from "../../host/files.ts";
import type { Vm } from "../driver.ts";

/** Directory of vsock and serial line. */
export const IO = "io";
/** Directory where the VMM writes a snapshot. */
export const OUTBOX = "out";
/** Directory where the VMM reads a snapshot. */
export const INBOX = "restore";
export const VSOCK_SOCKET = `${IO}/vsock.sock`;
export const SERIAL_LOG = `${IO}/serial.log`;

/** Creates the directories. No VMM of the VM may run. */
export async function freshDirectories(vm: Vm, uid: number | undefined): Promise<void> {
  await removeDirectories(vm);
  await makeDirectoryFor(join(vm.dir, IO), uid);
  await makeDirectoryFor(join(vm.dir, OUTBOX), uid);
  await mkdir(join(vm.dir, INBOX), { mode: 0o700 });
  if (uid === undefined) return;
  await chown(join(vm.dir, INBOX), process.getuid?.() ?? 0, uid);
  await chmod(join(vm.dir, INBOX), 0o750);
}

async function removeDirectories(vm: Vm): Promise<void> {
  for (const name of [IO, OUTBOX, INBOX])
    await rm(join(vm.dir, name), { recursive: true, force: true });
}

/**
 * Removes half-written memory and links to a snapshot, and keeps the log of the serial line. No VMM
 * of the VM may run.
 */
export async function dropTransfer(vm: Vm): Promise<void> {
  for (const name of [OUTBOX, INBOX])
    await rm(join(vm.dir, name), { recursive: true, force: true });
}

/**
 * True while a snapshot is being written or read, for this agent or an earlier one. The VMM replies
 * to nothing until the transfer ends.
 */
export async function isTransferring(vm: Vm): Promise<boolean> {
  for (const name of [OUTBOX, INBOX])
    if ((await namesIn(join(vm.dir, name))).length > 0) return true;
  return false;
}

export async function emptyOutbox(vm: Vm): Promise<void> {
  await empty(join(vm.dir, OUTBOX));
}

export async function emptyInbox(vm: Vm): Promise<void> {
  await empty(join(vm.dir, INBOX));
}

async function empty(dir: string): Promise<void> {
  for (const name of await namesIn(dir)) {
    const path = join(dir, name);
    await unlink(path).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code === "EISDIR" || error.code === "EPERM") await rmdir(path);
      else if (!isNotFound(error)) throw error;
    });
  }
}

/**
 * Moves a file that the VMM wrote to a directory that the VMM cannot write to. The file then
 * belongs to the agent, and VMMs may read it. Returns its size in bytes.
 */
export async function takeFromOutbox(
  vm: Vm,
  name: string,
  dir: string,
  uid: number | undefined,
): Promise<number> {
  const path = join(dir, name);
  await rename(join(vm.dir, OUTBOX, name), path);
  const handle = await openUntrusted(path, constants.O_RDONLY);
  try {
    if (uid !== undefined) {
      await handle.chown(process.getuid?.() ?? 0, uid);
      await handle.chmod(0o640);
    }
    return (await handle.stat()).size;
  } finally {
    await handle.close();
  }
}

/**
 * Gives the VMM access to a snapshot's files: hard links, or copies if the snapshot is on another
 * file system.
 */
export async function offer(
  vm: Vm,
  snapshotDir: string,
  names: string[],
  uid: number | undefined,
): Promise<void> {
  for (const name of names) {
    const [from, to] = [join(snapshotDir, name), join(vm.dir, INBOX, name)];
    await link(from, to).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== "EXDEV") throw error;
      await copySparsely(from, to);
    });
    if (uid === undefined) continue;
    await chown(to, process.getuid?.() ?? 0, uid);
    await chmod(to, 0o640);
  }
}

async function namesIn(dir: string): Promise<string[]> {
  return await readdir(dir).catch((error: unknown) => {
    if (isNotFound(error)) return [];
    throw error;
  });
}
