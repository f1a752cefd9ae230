/**
 * Saves the memory of a VM from Cloud Hypervisor, and loads it again, as the three files that the
 * VMM writes.
 *
 * ME1  The VMM syncs nothing, checks no write of the two small files, and leaves a memory file of
 *      full size if it dies half-way. Only its response proves that it is done, and even then both
 *      JSON files are parsed and the size is compared.
 * ME2  The VMM silently restores a memory file that is too short or damaged. Sizes are compared
 *      before the restore, hashes during it.
 * ME3  A failure leaves none of the files behind.
 */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { fsyncPath, sha256Of } from "../../host/files.ts";
import { wrongHash, wrongSize } from "../../snapshot-files.ts";
import type { SnapshotFile, SnapshotFiles, Vm } from "../driver.ts";
import { type CloudHypervisorApi, explain } from "./api.ts";
import { differences, memoryBytes, type VmConfig } from "./config.ts";
import { emptyInbox, emptyOutbox, INBOX, offer, OUTBOX, takeFromOutbox } from "./directories.ts";

const MEMORY = "memory-ranges";
const CONFIG = "config.json";
const STATE = "state.json";
const FILES = [CONFIG, STATE, MEMORY];
const MAX_JSON_BYTES = 16 * 1024 ** 2;
/** Attempts to write a snapshot: a lost response is no failure, but leaves no usable snapshot. */
const ATTEMPTS = 2;

interface Transfer {
  api: CloudHypervisorApi;
  vm: Vm;
  uid: number | undefined;
  limitMs: number;
}

/** Writes the memory of a paused VM into `dir`, durably. */
export async function saveTo(
  dir: string,
  transfer: Transfer,
  signal: AbortSignal,
): Promise<SnapshotFiles> {
  const { vm, uid } = transfer;
  try {
    await writeToOutbox(transfer);
    signal.throwIfAborted();
    const files: Record<string, SnapshotFile> = {};
    for (const name of FILES) {
      const sizeBytes = await takeFromOutbox(vm, name, dir, uid);
      const wrong = await flaw(vm, join(dir, name), name, sizeBytes);
      if (wrong !== undefined) throw new Error(wrong);
      await fsyncPath(join(dir, name));
      files[name] = { sizeBytes, sha256: await sha256Of(join(dir, name), signal) };
    }
    await fsyncPath(dir);
    return files;
  } catch (error) {
    for (const name of FILES) await rm(join(dir, name), { force: true });
    await emptyOutbox(vm);
    throw error;
  }
}

async function writeToOutbox({ api, vm, limitMs }: Transfer): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    // A snapshot that an earlier agent requested may still be in progress. The VMM replies only
    // after it.
    const seen = await api.info(limitMs);
    if (seen.kind !== "ok") throw new Error(`Cloud Hypervisor does not answer: ${explain(seen)}`);
    if (seen.value.state !== "Paused")
      throw new Error(`the VM is ${seen.value.state}, and only a paused one can be written`);
    await emptyOutbox(vm);
    const outcome = await api.snapshot(OUTBOX, limitMs);
    if (outcome.kind === "ok") return;
    if (outcome.kind !== "unreachable" || attempt === ATTEMPTS)
      throw new Error(`Cloud Hypervisor did not write the snapshot: ${explain(outcome)}`);
  }
}

async function flaw(
  vm: Vm,
  path: string,
  name: string,
  sizeBytes: number,
): Promise<string | undefined> {
  if (name === MEMORY)
    return sizeBytes === memoryBytes(vm)
      ? undefined
      : `${MEMORY} has ${sizeBytes} bytes and the VM ${memoryBytes(vm)} of memory`;
  if (sizeBytes > MAX_JSON_BYTES) return `${name} has ${sizeBytes} bytes, more than it ever needs`;
  try {
    JSON.parse(await readFile(path, "utf8"));
    return undefined;
  } catch {
    return `${name} was not written as a whole: its ${sizeBytes} bytes are not JSON`;
  }
}

/**
 * The reason why the files in `snapshotDir` cannot be the saved ones, by their sizes only;
 * undefined if there is none.
 */
export async function misfit(
  vm: Vm,
  snapshotDir: string,
  files: SnapshotFiles,
): Promise<string | undefined> {
  const unnamed = FILES.find((name) => files[name] === undefined);
  if (unnamed !== undefined) return `the manifest names no file "${unnamed}"`;
  const wrong = await wrongSize(snapshotDir, files);
  if (wrong !== undefined) return wrong;
  const size = files[MEMORY]?.sizeBytes;
  return size === memoryBytes(vm)
    ? undefined
    : `its memory has ${size} bytes, the VM ${memoryBytes(vm)}`;
}

/**
 * Loads the memory into a VMM that has no VM yet. Returns why the snapshot cannot be used, or
 * undefined. Throws if the VMM is at fault.
 */
export async function loadFrom(
  snapshotDir: string,
  files: SnapshotFiles,
  expected: VmConfig,
  transfer: Transfer,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { api, vm, uid, limitMs } = transfer;
  await offer(vm, snapshotDir, FILES, uid);
  const [outcome, damage] = await Promise.all([
    api.restore(INBOX, limitMs),
    wrongHash(snapshotDir, files, signal),
  ]);
  await emptyInbox(vm);
  if (damage !== undefined) return damage;
  if (outcome.kind === "refused") return `Cloud Hypervisor refuses it: ${explain(outcome)}`;
  const seen = await api.info(limitMs);
  if (seen.kind !== "ok" || seen.value.state !== "Paused") {
    const said = outcome.kind === "ok" ? "it said that it did" : explain(outcome);
    const found = seen.kind === "ok" ? `the VM is ${seen.value.state}` : explain(seen);
    throw new Error(`Cloud Hypervisor did not restore: ${said}; ${found}`);
  }
  const [difference] = differences(hardwareOf(expected), seen.value.config);
  return difference === undefined ? undefined : `it is of another virtual machine: ${difference}`;
}

/** The part of the configuration that a guest depends on. Landlock is a matter of this host. */
function hardwareOf(config: VmConfig): Partial<VmConfig> {
  const { landlock_enable: _enabled, landlock_rules: _rules, ...hardware } = config;
  return hardware;
}
