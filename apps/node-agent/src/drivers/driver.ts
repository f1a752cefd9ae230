/**
 * What a VMM has to be able to do. Small primitives; the crash-safe order in which they are used is
 * in ../lifecycle, once for all drivers.
 *
 * D1  Every primitive looks first and acts on what it finds, so it can be repeated after any crash.
 *     `boot` and `restore` start over: whatever ran for the VM is ended first.
 * D2  A VMM outlives the agent: it is found again by its run record (pid, start time, boot), and
 *     without one by its working directory.
 * -   The record of a run is durable before the VM's first instruction runs.
 * D4  A VMM's working directory is its VM's directory and every path it is given is relative, so a
 *     directory can move between hosts unedited.
 * D5  Every wait has a limit of its own; a signal ends it earlier. Once it has ended, `boot` and
 *     `restore` start no process.
 */
import type { GuestAddress } from "../guest-connection.ts";

export interface Vm {
  /** `<DATA_DIR>/vm/<sandboxId>`; holds kernel, initrd, rootfs.ext4, disk.raw. */
  dir: string;
  sandboxId: string;
  /**
   * What is the VM's on the host is called so (processes, network, cgroup); absent: as its sandbox
   * is.
   */
  hostName?: string;
  vcpu: number;
  memoryMib: number;
  kernelCmdline: string;
  /** Whether the guest may reach anything beyond its host's door. */
  internetAccess: boolean;
  /** Which run of the sandbox it is; absent in a VM that is no sandbox's. */
  epoch?: number;
  /** A run that begins now is to be frozen when the host's lease ends. */
  isFenced?: boolean;
}

/** Of what is the VM's on this host. */
export const hostNameOf = ({ sandboxId, hostName }: Pick<Vm, "sandboxId" | "hostName">) =>
  hostName ?? sandboxId;

export interface SnapshotFile {
  sizeBytes: number;
  sha256: string;
}
export type SnapshotFiles = Record<string, SnapshotFile>;

export type VmmStatus =
  /**
   * Nor is there one where the guest panicked or restarted: the process may still be there, what it
   * was started for is gone.
   */
  | { kind: "none" }
  | { kind: "running" | "paused"; pid: number; residentBytes: number }
  /**
   * Alive, but it does not say what it does: hung, or its socket is gone. Nothing is destroyed on
   * that ground.
   */
  | { kind: "unknown"; pid: number; residentBytes: number; reason: string };

export type Restored =
  | { kind: "restored" }
  /** The snapshot cannot be used; no vCPU ran and the VMM is gone. */
  | { kind: "refused"; reason: string };

export interface SavedMemory {
  files: SnapshotFiles;
  /** Of the VMM that wrote them: it may be older than the one that is installed now. */
  fingerprint: string;
}

/** Why a VMM is gone that nobody ended. The message is a sentence for the sandbox's owner. */
export interface CauseOfEnd {
  code:
    | "GUEST_POWERED_OFF"
    | "GUEST_PANICKED"
    /** In a VMM that starts it anew in place: what ran is gone, another system has booted. */
    | "GUEST_RESTARTED"
    /** By a signal from outside: by hand, or because memory ran out. */
    | "VMM_KILLED"
    /** By an error of its own. */
    | "VMM_FAILED"
    | "HOST_RESTARTED"
    /** It left no trace that tells. */
    | "VMM_ENDED";
  message: string;
}

export interface Driver {
  readonly name: string;
  /**
   * Of what it writes into new VMs' snapshots: VMM and its version, machine, CPU, accelerator.
   * Where it is equal, a snapshot restores.
   */
  fingerprint(): Promise<string>;
  /**
   * Fingerprints whose snapshots restore here: its own, and those of older VMMs that are still
   * installed.
   */
  restorable(): Promise<string[]>;
  /**
   * Why a snapshot of that fingerprint cannot be restored here, as the end of a sentence;
   * undefined: nothing speaks against it.
   */
  refusal(fingerprint: string): Promise<string | undefined>;
  /**
   * Starts a VMM, calls `beforeRun` once its record is durable, and lets its vCPUs run. Throws when
   * it does not come up, or `beforeRun` does; then none is left.
   */
  boot(vm: Vm, signal: AbortSignal, beforeRun?: () => Promise<void>): Promise<void>;
  /**
   * Starts a VMM with the memory of `snapshotDir`, verified while it is read; the vCPUs stand
   * still. Throws when the VMM is at fault, not the snapshot, or the signal ended it; then none is
   * left.
   */
  restore(vm: Vm, snapshotDir: string, saved: SavedMemory, signal: AbortSignal): Promise<Restored>;
  /**
   * Makes a VM that was restored for nobody (../lifecycle/warm-pool.ts), and has not run since, the
   * one that `vm` describes: its run's epoch, whether the fence guards it, what its network lets
   * through. Durable before it returns. Throws when there is none.
   */
  assign(vm: Vm): Promise<void>;
  inspect(vm: Vm): Promise<VmmStatus>;
  /** Whether the VMM process is there, without asking it anything. */
  isAlive(vm: Vm): Promise<boolean>;
  pauseVcpus(vm: Vm): Promise<void>;
  resumeVcpus(vm: Vm): Promise<void>;
  /**
   * Writes memory and device state of a VM whose vCPUs stand still into `dir`, durably. The VM can
   * be resumed afterwards.
   */
  saveMemory(vm: Vm, dir: string, signal: AbortSignal): Promise<SavedMemory>;
  /**
   * Ends a save that an agent before this one began and that goes on without it. Absent where no
   * save outlives its agent. `resumeVcpus` and `saveMemory` do it by themselves.
   */
  callOffSave?(vm: Vm): Promise<void>;
  /**
   * Waits `graceMs`, or until the signal, for the VMM to end by itself, then ends it, and returns
   * when it is really gone: memory, files and locks are free.
   */
  end(vm: Vm, options: { graceMs: number; signal?: AbortSignal }): Promise<void>;
  /** Where the guest agent is reached on this host; undefined when no VMM runs. */
  guestAddress(vm: Vm): Promise<GuestAddress | undefined>;
  /** Of a VMM that is gone, asked before `end` or the next run takes its traces away. */
  causeOfEnd(vm: Vm): Promise<CauseOfEnd>;
  /** Cuts logs that a guest can fill at will. */
  trimLogs(vm: Vm): Promise<void>;
}
