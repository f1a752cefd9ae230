/**
 * What an agent knows of one sandbox: vm.json, durable before anything is reported. With the
 * journal (op.json) it is all that an agent needs after a crash.
 */
import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type {
  Cause,
  Condition,
  ObservedState,
  SandboxSpec,
  SnapshotFacts,
  VmCommand,
} from "@torpor/contracts";
import type { Vm } from "../drivers/driver.ts";
import { isNotFound, readJson, removeDurably, sizeOf, writeDurably } from "../host/files.ts";

interface OperationResult {
  id: string;
  outcome: "succeeded" | "failed" | "cancelled";
  error?: Cause;
}

export interface VmRecord {
  spec: SandboxSpec;
  kernelCmdline: string;
  /** Of what its VM has on this host; absent: it is called as the sandbox is. */
  hostName?: string;
  /** Highest (epoch, opSeq) seen; lower commands are stale. */
  epoch: number;
  opSeq: number;
  /** Of the newest observation. */
  revision: number;
  state: ObservedState;
  /** Of the snapshot that `state: paused` rests on; only rises. */
  generation: number;
  /**
   * Of `paused`; of `stopped` its disk; of `running` a snapshot that reached the store after it was
   * resumed.
   */
  snapshot?: SnapshotFacts;
  /** Asked for and not done yet: the copy to the store. */
  replication?: { maxBytesPerSecond?: number };
  /** Why there is none, and will be none by itself. */
  replicationFailed?: Cause;
  operation?: OperationResult;
  cause?: Cause;
  /** What is wrong with the VMM while it lives. */
  condition?: Condition;
  /** The control plane has had it frozen and cut off. */
  quarantined?: boolean;
  timingsMs?: Record<string, number>;
  observedAt: string;
  /** Opens the guest agent. Nobody but this host's agent and the guest has it. */
  agentKey: string;
  machineId: string;
}

/** The operation that is being carried out. Absent: none. */
export interface Journal {
  command: VmCommand;
  /** The state before it. */
  from: ObservedState;
  guestSynced?: boolean;
}

const INCOMING_KEPT_MS = 24 * 3_600_000;

/** The files of one host's sandboxes, below DATA_DIR. */
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

  dirOf(sandboxId: string): string {
    return join(this.dataDir, "vm", sandboxId);
  }

  /** Deleted sandboxes keep their order, so that a late command is known to be stale. */
  private goneFile(sandboxId: string): string {
    return join(this.dataDir, "gone", `${sandboxId}.json`);
  }

  async list(): Promise<string[]> {
    return (await readdir(join(this.dataDir, "vm"))).filter((name) => !name.includes("."));
  }

  /** The newer of the two: a crash may have left the directory of a sandbox that is gone. */
  async read(sandboxId: string): Promise<VmRecord | undefined> {
    const held = await readJson<VmRecord>(join(this.dirOf(sandboxId), "vm.json"));
    const gone = await readJson<VmRecord>(this.goneFile(sandboxId));
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
    if ((await readJson(file)) === undefined) await writeDurably(file, JSON.stringify(record));
  }

  /** A create or a fetch that failed leaves nothing but the order of its commands. */
  async dropDirectory(record: VmRecord): Promise<void> {
    await removeDurably(this.dirOf(record.spec.sandboxId));
  }

  /** Where a snapshot is assembled that comes from elsewhere. */
  incomingDir(sandboxId: string, manifestSha256: string): string {
    return join(this.dataDir, "incoming", `${sandboxId}.${manifestSha256.slice(0, 16)}`);
  }

  async dropIncoming(sandboxId: string): Promise<void> {
    const incoming = join(this.dataDir, "incoming");
    for (const name of await readdir(incoming))
      if (name.startsWith(`${sandboxId}.`))
        await rm(join(incoming, name), { recursive: true, force: true });
  }

  /** What nobody has gone on with for long is not waited for any more. */
  async dropOldIncoming(): Promise<void> {
    const incoming = join(this.dataDir, "incoming");
    for (const name of await readdir(incoming)) {
      const { mtimeMs } = await stat(join(incoming, name));
      if (Date.now() - mtimeMs > INCOMING_KEPT_MS)
        await rm(join(incoming, name), { recursive: true, force: true });
    }
  }

  async readJournal(sandboxId: string): Promise<Journal | undefined> {
    return await readJson<Journal>(join(this.dirOf(sandboxId), "op.json"));
  }

  async writeJournal(sandboxId: string, journal: Journal): Promise<void> {
    await writeDurably(join(this.dirOf(sandboxId), "op.json"), JSON.stringify(journal));
  }

  async clearJournal(sandboxId: string, operationId: string): Promise<void> {
    await rm(this.cancelFile(sandboxId, operationId), { force: true });
    await removeDurably(join(this.dirOf(sandboxId), "op.json")).catch((error: unknown) => {
      // The directory itself may be gone: a delete has ended.
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    });
  }

  /**
   * The next process knows too that the operation was cancelled. Where nothing of the sandbox is
   * here, there is nothing that it could go on with.
   */
  async noteCancelled(sandboxId: string, operationId: string): Promise<void> {
    await writeDurably(this.cancelFile(sandboxId, operationId), "").catch((error: unknown) => {
      if (!isNotFound(error)) throw error;
    });
  }

  async wasCancelled(sandboxId: string, operationId: string): Promise<boolean> {
    return (await sizeOf(this.cancelFile(sandboxId, operationId))) !== undefined;
  }

  private cancelFile(sandboxId: string, operationId: string): string {
    return join(this.dirOf(sandboxId), `${operationId}.cancelled`);
  }

  vmOf(record: VmRecord): Vm {
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

/** Nothing of the sandbox is left on this host but the order of its commands. */
export function isGone({ state, revision }: Pick<VmRecord, "state" | "revision">): boolean {
  return revision > 0 && (state === "deleted" || state === "failed");
}
