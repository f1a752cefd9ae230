/**
 * The interface of a VMM, as small primitives. The crash-safe order of the primitives is in
 * ../lifecycle, once for all drivers.
 *
 * D1  Every primitive first reads the state and acts on it, so it can be repeated after any crash.
 *     `boot` and `restore` start over: they first end whatever runs for the VM.
 * D2  A VMM outlives the agent. It is found again by its run record (pid, start time, boot), or,
 *     without a record, by its working directory.
 * - The record of a run is durable before the VM's first instruction runs.
 * D4  A VMM's working directory is its VM's directory, and every path that the VMM gets is
 *     relative, so a directory can move between hosts unchanged.
 * D5  Every wait has its own limit; a signal ends the wait earlier. After the signal, `boot` and
 *     `restore` start no process.
 */
import type { GuestAddress } from "../guest-connection.ts";

export interface Vm {
  /** `<DATA_DIR>/vm/<sandboxId>`; holds kernel, initrd, rootfs.ext4, disk.raw. */
  dir: string;
  /** Id of the sandbox; another name in a VM without a sandbox. */
  sandboxId: string;
  /** Name of the VM's processes, network and cgroup on the host; default: the id of the sandbox. */
  hostName?: string;
  vcpu: number;
  memoryMib: number;
  kernelCmdline: string;
  /** True: the guest may reach hosts outside its own. */
  internetAccess: boolean;
  /** Epoch of the sandbox's run; absent in a VM without a sandbox. */
  epoch?: number;
  /** True: the fence freezes a run that begins now when the host's lease ends. */
  isFenced?: boolean;
}

/** Name of the VM's resources on this host. */
export const hostNameOf = ({ sandboxId, hostName }: Pick<Vm, "sandboxId" | "hostName">) =>
  hostName ?? sandboxId;

export interface SnapshotFile {
  sizeBytes: number;
  sha256: string;
}
export type SnapshotFiles = Record<string, SnapshotFile>;

export type VmmStatus =
  /**
   * No VMM, or one whose guest panicked or restarted: the process may still exist, but its guest is
   * lost.
   */
  | { kind: "none" }
  | { kind: "running" | "paused"; pid: number; residentBytes: number }
  /**
   * Alive, but without a readable state: the VMM hangs, or its socket is gone. This state justifies
   * no destruction.
   */
  | { kind: "unknown"; pid: number; residentBytes: number; reason: string };

export type Restored =
  | { kind: "restored" }
  /** The snapshot cannot be used; no vCPU ran and the VMM is gone. */
  | { kind: "refused"; reason: string };

export interface SavedMemory {
  files: SnapshotFiles;
  /** Fingerprint of the VMM that wrote the files, which may be older than the installed one. */
  fingerprint: string;
}

/**
 * The reason why a VMM ended that Torpor did not end. The message is a sentence for the sandbox's
 * owner.
 */
export interface CauseOfEnd {
  code:
    | "GUEST_POWERED_OFF"
    | "GUEST_PANICKED"
    /** The VMM restarted the guest in place: its memory is lost, another system has booted. */
    | "GUEST_RESTARTED"
    /** A signal from outside ended the VMM: by hand, or because memory ran out. */
    | "VMM_KILLED"
    /** The VMM ended by its own error. */
    | "VMM_FAILED"
    | "HOST_RESTARTED"
    /** The VMM left no trace of the reason. */
    | "VMM_ENDED";
  message: string;
}

export interface Driver {
  readonly name: string;
  /**
   * Fingerprint of new VMs' snapshots: VMM and its version, machine, CPU, accelerator. A snapshot
   * with an equal fingerprint restores.
   */
  fingerprint(): Promise<string>;
  /**
   * Fingerprints that restore here: the current one, and those of older VMMs that are still
   * installed.
   */
  restorable(): Promise<string[]>;
  /**
   * The reason why a snapshot with this fingerprint cannot be restored here, as the end of a
   * sentence; undefined if none is known.
   */
  refusal(fingerprint: string): Promise<string | undefined>;
  /**
   * Starts a VMM, calls `beforeRun` once the run's record is durable, and lets the vCPUs run.
   * Throws if the VMM does not start or `beforeRun` throws; no VMM is left then.
   */
  boot(vm: Vm, signal: AbortSignal, beforeRun?: () => Promise<void>): Promise<void>;
  /**
   * Starts a VMM with the memory of `snapshotDir`, verified while it is read; the vCPUs are paused.
   * Throws if the VMM is at fault rather than the snapshot, or if the signal ended it; no VMM is
   * left then.
   */
  restore(vm: Vm, snapshotDir: string, saved: SavedMemory, signal: AbortSignal): Promise<Restored>;
  /**
   * Assigns a warm VM (../lifecycle/warm-pool.ts), which has not run since its restore, to the
   * sandbox that `vm` describes: epoch, fence and network access. Durable before it returns. Throws
   * if the VM's process is gone.
   */
  assign(vm: Vm): Promise<void>;
  inspect(vm: Vm): Promise<VmmStatus>;
  /** Checks if the VMM process exists, without a request to it. */
  isAlive(vm: Vm): Promise<boolean>;
  pauseVcpus(vm: Vm): Promise<void>;
  resumeVcpus(vm: Vm): Promise<void>;
  /**
   * Writes memory and device state of a VM with paused vCPUs into `dir`, durably. The VM can be
   * resumed afterwards.
   */
  saveMemory(vm: Vm, dir: string, signal: AbortSignal): Promise<SavedMemory>;
  /**
   * Ends a save that an earlier agent began and that continues without it. Absent in a driver whose
   * saves do not outlive the agent. `resumeVcpus` and `saveMemory` do this themselves.
   */
  callOffSave?(vm: Vm): Promise<void>;
  /**
   * Waits `graceMs`, or until the signal, for the VMM to end by itself, then ends it. Returns when
   * it is really gone: memory, files and locks are free.
   */
  end(vm: Vm, options: { graceMs: number; signal?: AbortSignal }): Promise<void>;
  /** Address of the guest agent on this host; undefined when no VMM runs. */
  guestAddress(vm: Vm): Promise<GuestAddress | undefined>;
  /**
   * Finds the reason why a VMM ended. To be called before `end` or the next run, which remove the
   * traces.
   */
  causeOfEnd(vm: Vm): Promise<CauseOfEnd>;
  /** Truncates logs that a guest can fill at will. */
  trimLogs(vm: Vm): Promise<void>;
}
