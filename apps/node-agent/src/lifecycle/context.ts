import type { CommitRequest, SandboxId } from "@torpor/contracts";
import type { Logger, ProcessIdentity } from "@torpor/service";
import type { Driver } from "../drivers/driver.ts";
import type { Isolation } from "../host/isolation.ts";
import type { FetchSource } from "../store/fetch.ts";
import type { PeerReference } from "../store/peer.ts";
import type { CopyProgress } from "../store/read-chunks.ts";
import type { SnapshotStore } from "../store/snapshot-store.ts";
import type { Guest } from "./guest.ts";
import type { CLOSING } from "./keyed-queue.ts";
import type { Journal, VmRecord } from "./record.ts";
import type { SandboxVm, VmStore } from "./vm-store.ts";

export type CommitAnswer = { kind: "granted" } | { kind: "refused"; reason: string };

/** Last use of the sandboxes through this host's data plane. */
export interface HostActivity {
  /** Restarts the idle time of the sandbox. */
  touch(sandboxId: SandboxId): void;
  /** 0 while a proxy request waits for its response. */
  idleMs(sandboxId: SandboxId): number;
  forget(sandboxId: SandboxId): void;
}

/**
 * The fence (../fence): the process that freezes VMs whose sandboxes may be restored elsewhere when
 * this host's lease ends.
 */
export interface HostFence {
  /** Reason why no such VM may begin to run now; undefined: it may. */
  refusal(): Promise<string | undefined>;
  /** True if the process started under the current lease, so that the fence lets it run. */
  covers(process: Pick<ProcessIdentity, "startTime">): boolean;
  /** True if the fence has frozen the sandbox's VM, which then answers nothing. */
  isFrozen(sandboxId: SandboxId): Promise<boolean>;
  /**
   * Waits until a frozen VM of that run is thawed. False: the VM is still frozen after a limit, or
   * when the signal aborts.
   */
  untilThawed(sandboxId: SandboxId, epoch: number, signal: AbortSignal): Promise<boolean>;
}

/**
 * What became of a submitted command. `journalled`: it will be run and completed. `stale`: a newer
 * command is known. `repeated`: its result was reported again. `ignored`: this host has nothing to
 * do. `closing`: this process ends and has not journalled the command, which has to come again.
 */
export type Submitted = "journalled" | "stale" | "repeated" | "ignored" | typeof CLOSING;

/** Dependencies of the steps of a lifecycle. */
export interface LifecycleDeps {
  store: VmStore;
  driver: Driver;
  isolation: Pick<Isolation, "collect">;
  guest: Guest;
  snapshots: SnapshotStore;
  /** A snapshot on the host whose data plane is at `sourceUrl`. */
  peer(sandboxId: SandboxId, reference: PeerReference): FetchSource;
  activity: HostActivity;
  fence: HostFence;
  /** This host's private key (PEM), which opens sealed values in its commands. */
  commandKey: string;
  imagesDir: string;
  /** Requests to pass the operation's point of no return. No reply in time counts as refused. */
  commit(request: Omit<CommitRequest, "type" | "version" | "hostId">): Promise<CommitAnswer>;
  /** User of VMMs; undefined if the agent is not root. */
  uid: number | undefined;
  log: Logger;
}

/** One running operation. */
export interface Step {
  deps: LifecycleDeps;
  /** The record as it is now. */
  readonly record: VmRecord;
  /** Writes a record, which is then the sandbox's. */
  keep(record: VmRecord): Promise<void>;
  journal: Journal;
  vm: SandboxVm;
  /** True if this process took a warm VM for the create (warm-pool.ts). */
  isWarm: boolean;
  /** Aborts when the operation has to back out. */
  signal: AbortSignal;
  /** Receives the progress of the fetch. */
  onFetch: (progress: CopyProgress) => void;
  /** Milliseconds per named step, reported with the outcome. */
  timings: Record<string, number>;
}

export async function timed<T>(step: Step, name: string, body: () => Promise<T>): Promise<T> {
  const startedAt = performance.now();
  try {
    return await body();
  } finally {
    step.timings[name] = Math.round(performance.now() - startedAt);
  }
}
