/**
 * The files of one host's sandboxes. A sandbox's record (vm.json) is durable before anything is
 * reported; the record and the journal (op.json) are all that an agent needs after a crash.
 */
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { type OperationId, type SandboxId, unverifiedSandboxId } from "@torpor/contracts";
import type { Vm } from "../drivers/driver.ts";
import { isNotFound, removeDurably, sizeOf, writeDurably } from "../host/files.ts";
import { jsonReader } from "../host/json.ts";
import { isGone, Journal, VmRecord } from "./record.ts";

const readRecord = jsonReader(VmRecord);
const readJournal = jsonReader(Journal);

const INCOMING_KEPT_MS = 24 * 3_600_000;

/** The VM of a sandbox. */
export type SandboxVm = Vm & { sandboxId: SandboxId };

/** All paths are below DATA_DIR. */
export class VmStore {
  readonly dataDir: string;

  constructor(dataDir: string) {
    this.dataDir = dataDir;
  }

  async prepare(): Promise<void> {
    for (const name of ["vm", "trash", "gone", "incoming"])
      await mkdir(join(this.dataDir, name), { recursive: true });
    for (const name of await readdir(join(this.dataDir, "trash")))
      await rm(join(this.dataDir, "trash", name), { recursive: true, force: true });
    await this.dropOldIncoming();
  }

  dirOf(sandboxId: SandboxId): string {
    return join(this.dataDir, "vm", sandboxId);
  }

  /** Deleted sandboxes keep their order, so that a late command is known to be stale. */
  private goneFile(sandboxId: SandboxId): string {
    return join(this.dataDir, "gone", `${sandboxId}.json`);
  }

  /** The sandboxes that have a directory, which is named by their id. */
  async list(): Promise<SandboxId[]> {
    const names = await readdir(join(this.dataDir, "vm"));
    return names.filter((name) => !name.includes(".")).map(unverifiedSandboxId);
  }

  /** Reads the newer record: a crash may have left the directory of a sandbox that is gone. */
  async read(sandboxId: SandboxId): Promise<VmRecord | undefined> {
    const held = await readRecord(join(this.dirOf(sandboxId), "vm.json"));
    const gone = await readRecord(this.goneFile(sandboxId));
    return held === undefined || (gone !== undefined && gone.revision > held.revision)
      ? gone
      : held;
  }

  async write(record: VmRecord): Promise<void> {
    const file = isGone(record)
      ? this.goneFile(record.spec.sandboxId)
      : join(this.dirOf(record.spec.sandboxId), "vm.json");
    await writeDurably(file, JSON.stringify(record));
  }

  /** Makes the sandbox's directory with its record, where there is none yet. */
  async makeRoom(record: VmRecord): Promise<void> {
    await mkdir(this.dirOf(record.spec.sandboxId), { recursive: true, mode: 0o700 });
    const file = join(this.dirOf(record.spec.sandboxId), "vm.json");
    if ((await sizeOf(file)) === undefined) await writeDurably(file, JSON.stringify(record));
  }

  /** Removes the sandbox's directory: only the order of its commands is kept. */
  async dropDirectory(record: VmRecord): Promise<void> {
    await removeDurably(this.dirOf(record.spec.sandboxId));
  }

  /** Directory in which a fetched snapshot is assembled. */
  incomingDir(sandboxId: SandboxId, manifestSha256: string): string {
    return join(this.dataDir, "incoming", `${sandboxId}.${manifestSha256.slice(0, 16)}`);
  }

  async dropIncoming(sandboxId: SandboxId): Promise<void> {
    const incoming = join(this.dataDir, "incoming");
    for (const name of await readdir(incoming))
      if (name.startsWith(`${sandboxId}.`))
        await rm(join(incoming, name), { recursive: true, force: true });
  }

  /** Removes fetched files that no operation has continued for INCOMING_KEPT_MS. */
  async dropOldIncoming(): Promise<void> {
    const incoming = join(this.dataDir, "incoming");
    for (const name of await readdir(incoming)) {
      const { mtimeMs } = await stat(join(incoming, name));
      if (Date.now() - mtimeMs > INCOMING_KEPT_MS)
        await rm(join(incoming, name), { recursive: true, force: true });
    }
  }

  async readJournal(sandboxId: SandboxId): Promise<Journal | undefined> {
    // A kind that only a newer agent knows ends with UNKNOWN_COMMAND.
    return (await readJournal(join(this.dirOf(sandboxId), "op.json"))) as Journal | undefined;
  }

  async writeJournal(sandboxId: SandboxId, journal: Journal): Promise<void> {
    await writeDurably(join(this.dirOf(sandboxId), "op.json"), JSON.stringify(journal));
  }

  async clearJournal(sandboxId: SandboxId, operationId: OperationId): Promise<void> {
    await rm(this.cancelFile(sandboxId, operationId), { force: true });
    await removeDurably(join(this.dirOf(sandboxId), "op.json")).catch((error: unknown) => {
      // The directory itself may be gone: a delete has ended.
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    });
  }

  /**
   * Makes the cancel durable for the next process. If the sandbox has no directory, there is
   * nothing that the next process could continue.
   */
  async noteCancelled(sandboxId: SandboxId, operationId: OperationId): Promise<void> {
    await writeDurably(this.cancelFile(sandboxId, operationId), "").catch((error: unknown) => {
      if (!isNotFound(error)) throw error;
    });
  }

  async wasCancelled(sandboxId: SandboxId, operationId: OperationId): Promise<boolean> {
    return (await sizeOf(this.cancelFile(sandboxId, operationId))) !== undefined;
  }

  private cancelFile(sandboxId: SandboxId, operationId: OperationId): string {
    return join(this.dirOf(sandboxId), `${operationId}.cancelled`);
  }

  vmOf(record: VmRecord): SandboxVm {
    const { sandboxId, resources, internetAccess, onHostLoss } = record.spec;
    return {
      dir: this.dirOf(sandboxId),
      sandboxId,
      ...(record.hostName === undefined ? {} : { hostName: record.hostName }),
      vcpu: resources.vcpu,
      memoryMib: resources.memoryMib,
      kernelCmdline: record.kernelCmdline,
      internetAccess,
      epoch: record.epoch,
      isFenced: onHostLoss === "restore",
    };
  }
}
